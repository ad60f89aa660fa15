"""Tabular policies and the theory of RMiPO's margin: what the chapters on theory compute exactly."""
