"""The run directory: the only code that maps records and artifacts to files."""
