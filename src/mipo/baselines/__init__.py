"""Reinforcement learning from PMI and from a verifier: what MIPO is compared with."""
