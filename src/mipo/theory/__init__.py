"""Tabular policies and the theory of RMiPO's margin, exactly."""
