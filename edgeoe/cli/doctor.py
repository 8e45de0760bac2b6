"""edgeoe doctor"""

from __future__ import annotations

from edgeoe.cli.options import JsonOption, next_step
from edgeoe.report.text_file import write_json

__all__ = ["command"]


def command(json: JsonOption = None) -> int:
    """Show what this machine can run, and what is missing for the rest.

    Example: [bold]edgeoe doctor[/]
    """
    from rich.text import Text

    from edgeoe.doctor import examine
    from edgeoe.report.terminal import out, table

    findings = examine()
    write_json(json, findings)
    mark = {True: Text("yes", "green"), False: Text("no", "yellow")}
    view = table("This machine", ("what", "here", "detail"), [(f.what, mark[f.here], f.detail) for f in findings])
    view.columns[1].justify = view.columns[2].justify = "left"
    out.print(view)
    next_step("edgeoe demo")
    return 0
