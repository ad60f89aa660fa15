"""Figures of the study: plain data in, a matplotlib Figure out, one function each.

Import the submodule you need.
"""
