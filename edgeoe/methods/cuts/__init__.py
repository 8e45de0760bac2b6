"""Cuts: which units of a teacher are pruned."""
