"""The command line: parses, calls the pipeline, shows results, and turns errors into exit codes.

This module imports next to nothing, so that a signal that comes while the rest is imported is handled, too.
"""

from __future__ import annotations

import sys

from edgeoe.interruption import handling_signals

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; `arguments` are those of this process unless told."""
    with handling_signals(until_exit=arguments is None):
        from edgeoe.cli.app import run

        code = run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(code)
