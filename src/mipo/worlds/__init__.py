"""Worlds in which the truth is known: the small world, its wide version, word problems,
and the votes of real people.
"""

import importlib

# Where the examples of each source are made. Imported when they are asked for, so that
# who reads a file of his own waits for no world.
SOURCES = {"world": "mipo.world", "polis": "mipo.worlds.polis"}


def examples(source: str, **settings) -> list[dict]:
    """Examples of a world.

    Parameters
    ----------
    source : str
        A key of `SOURCES`.
    **settings
        Keywords of the module's own function ``records``.

    Returns
    -------
    list of dict
        With "query", "context", "gold" and what else the world knows.
    """
    return importlib.import_module(SOURCES[source]).records(**settings)
