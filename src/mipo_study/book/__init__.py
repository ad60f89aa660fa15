"""Run the notebooks, fill their numbers into pages, build the book, compare runs."""
