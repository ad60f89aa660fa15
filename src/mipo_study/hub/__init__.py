"""Experiments with models and data sets of the hub."""
