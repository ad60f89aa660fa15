"""Figures of the study: one function per figure, plain data in, a matplotlib Figure out. Import the submodule you need."""
