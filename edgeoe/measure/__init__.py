"""Measurement of artifacts, statistics, and verdicts."""
