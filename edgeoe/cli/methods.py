"""edgeoe methods"""

from __future__ import annotations

from edgeoe.cli.options import JsonOption, next_step
from edgeoe.report.text_file import write_json

__all__ = ["command"]


def command(*, json: JsonOption = None) -> int:
    """List the methods that compress can use, what each does and needs, and where it comes from.

    Every one of them works alone (--no-oe) and with out-of-distribution images.
    Example: [bold]edgeoe methods[/]
    """
    from edgeoe.registry import METHODS, resolve
    from edgeoe.report.terminal import out, table

    facts = {name: resolve(METHODS, name, kind="method").about for name in METHODS}
    rows = [(name, about.does, about.needs, about.reference) for name, about in facts.items()]
    made = table("methods", ("method", "does", "needs", "reference"), rows)
    for column in made.columns:
        column.justify = "left"
    out.print(made)
    write_json(json, facts)
    next_step("edgeoe compress --method METHOD ...")
    return 0
