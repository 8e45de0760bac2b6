"""Structured pruning of any network that runs: which channels are tied, and networks without some of them.

A library of its own: it imports torch, errors and progress alone.
"""
