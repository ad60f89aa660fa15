"""The experiments of the book: how its numbers were made, chapter by chapter."""
