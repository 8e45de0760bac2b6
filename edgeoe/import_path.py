"""Where modules are imported from, without the folder that a program happens to be started in.

A `json.py` or `onnxruntime.py` that lies in the working folder is no module of ours. This imports `sys` and `os` alone,
which Python has loaded before it looks anywhere.
"""

import os
import sys

__all__ = ["child_environment", "import_path"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # edgeoe lies here, installed or not


def import_path() -> list[str]:
    """`sys.path` without the working folder, and without folders that PYTHONPATH names relative to it.

    The folder that edgeoe lies in stays, whichever it is.
    """
    refused = {os.path.realpath(entry) for entry in _pythonpath() if not os.path.isabs(entry)}
    refused = {os.getcwd(), *refused} - {os.path.realpath(_PACKAGE)}
    kept = [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) not in refused]
    return kept if _PACKAGE in kept else [*kept, _PACKAGE]


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for another Python: its PYTHONPATH names neither the working folder nor one relative to it."""
    kept = [entry for entry in _pythonpath() if os.path.isabs(entry) and os.path.realpath(entry) != os.getcwd()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(kept), **changes}
    return {key: value for key, value in environment.items() if value or key != "PYTHONPATH"}


def _pythonpath() -> list[str]:
    return os.environ["PYTHONPATH"].split(os.pathsep) if os.environ.get("PYTHONPATH") else []
