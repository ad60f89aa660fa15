"""Whether the network may be used, and where what is fetched is kept."""

import os
from pathlib import Path


class Unavailable(ValueError):
    """Something that was to be downloaded is not there, with the way out."""


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


def downloads() -> Path:
    """The folder of what is fetched once, for all chapters.

    Returns
    -------
    Path
        ``MIPO_CACHE``, else "mipo" in the user's cache folder, as the platform has it.
    """
    import pooch

    return Path(os.environ.get("MIPO_CACHE") or pooch.os_cache("mipo")).absolute()
