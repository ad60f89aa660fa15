"""Preference optimisation by mutual information: what MIPO and RMiPO do, measured where the truth is known.

Import the module you need (``from mipo import losses``); this file imports nothing, so that ``import mipo`` is instant.
"""

__version__ = "0.4.0"
