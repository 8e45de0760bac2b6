"""Profiles of the devices that artifacts are built for, and their limits."""
