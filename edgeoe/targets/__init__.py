"""Devices that artifacts are built for: profiles, what a device can't do, and whether this machine is it."""
