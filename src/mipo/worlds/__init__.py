"""Worlds in which the truth is known.

The small world, its wide version, word problems, the votes of real people, and people
with wishes that a program checks.
"""

import importlib

# Who makes the examples of each source. Imported when they are asked for, so that
# whoever reads a file of their own waits for no world.
SOURCES = {
    "world": "mipo.world.examples",
    "polis": "mipo.worlds.votes.load",
    "wishes": "mipo.worlds.wishes.examples",
}


def examples(source: str, **settings) -> list[dict]:
    """Examples of a world.

    Parameters
    ----------
    source : str
        A key of `SOURCES`.
    **settings
        Keywords of the source's own function.

    Returns
    -------
    list of dict
        With "query", "context", "gold" and what else the world knows.
    """
    module, name = SOURCES[source].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**settings)
