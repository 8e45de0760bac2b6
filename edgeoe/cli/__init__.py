"""The command line: parses arguments, calls the pipeline, shows results, and turns errors into exit codes.

This module imports very little, so that signals are handled while the rest is imported.
"""

from __future__ import annotations

import sys

from edgeoe.interruption import handling_signals

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    arguments: None takes those of this process.
    """
    with handling_signals(until_exit=arguments is None):
        from edgeoe.cli.app import run

        code = run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(code)
