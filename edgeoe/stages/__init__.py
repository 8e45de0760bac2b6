"""The stages of the pipeline: each reads its inputs from a run directory and writes its results there."""
