"""The import path without the working folder.

A `json.py` or `onnxruntime.py` that happens to lie in the working folder must not be imported. This module imports only
`sys` and `os`, which Python loads before it searches the path.
"""

import os
import sys

__all__ = ["child_environment", "import_path"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # edgeoe lies here, installed or not


def import_path() -> list[str]:
    """`sys.path` without the working folder and without relative entries of PYTHONPATH.

    The folder that contains edgeoe always stays.
    """
    refused = {os.path.realpath(entry) for entry in _pythonpath() if not os.path.isabs(entry)}
    refused = {os.getcwd(), *refused} - {os.path.realpath(_PACKAGE)}
    entries = [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) not in refused]
    return entries if _PACKAGE in entries else [*entries, _PACKAGE]


def child_environment(**changes: str) -> dict[str, str]:
    """Environment variables for a child Python: PYTHONPATH without the working folder and relative entries.

    changes: further variables to set.
    """
    entries = [entry for entry in _pythonpath() if os.path.isabs(entry) and os.path.realpath(entry) != os.getcwd()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entries), **changes}
    return {key: value for key, value in environment.items() if value or key != "PYTHONPATH"}


def _pythonpath() -> list[str]:
    return os.environ["PYTHONPATH"].split(os.pathsep) if os.environ.get("PYTHONPATH") else []
