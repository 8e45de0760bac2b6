"""Frozen facts that travel between stages."""
