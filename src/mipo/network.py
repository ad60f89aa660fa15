"""Whether the network may be used."""

import os


def offline() -> bool:
    """Whether the hub's own switch, ``HF_HUB_OFFLINE``, forbids the network.

    Returns
    -------
    bool
        True for the values 1, true, yes and on, in any case; read at each call, since a
        test or a notebook may set it after the hub's library was imported.
    """
    value = os.environ.get("HF_HUB_OFFLINE", "")
    return value.lower() in ("1", "true", "yes", "on")
