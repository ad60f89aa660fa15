"""Worlds in which the truth is known: the small world, its wide version, word problems, and the votes of real people."""
