"""Training speed, measured beside TRL."""
