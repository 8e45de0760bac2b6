"""The run directory: the one place that knows how records and artifacts lie in files."""
