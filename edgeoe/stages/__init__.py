"""The stages of the line: each reads what it needs from a run directory and writes its results there."""
