"""Recoveries: what a pruned student imitates, and how."""
