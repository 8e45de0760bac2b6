"""edgeoe methods"""

from __future__ import annotations

from dataclasses import asdict

from edgeoe.cli.options import JsonOption, next_step
from edgeoe.errors import ConfigError
from edgeoe.report.text_file import write_json

__all__ = ["command"]


def command(*, json: JsonOption = None) -> int:
    """List the methods that compress can use, what each does and needs, and where it comes from.

    Every one of them works alone (--no-oe) and with out-of-distribution images, and nearly every one to a budget
    (--latency-ms, --speedup), which prunes channels and blocks by what they lose. Other distributions may add methods.

    Example: [bold]edgeoe methods[/]
    """
    from edgeoe.method import load_method
    from edgeoe.registry import METHODS
    from edgeoe.report.terminal import out, table

    problems, facts = METHODS.problems(), {}
    for name in METHODS:
        try:
            facts[name] = load_method(name)
        except ConfigError as reason:
            problems.append(str(reason))
    to_budget = {name: sorted(method.to_budget) for name, method in facts.items()}
    rows = [
        (name, method.about.does, method.about.needs, ", ".join(to_budget[name]) or "nothing", method.about.reference)
        for name, method in facts.items()
    ]
    view = table("methods", ("method", "does", "needs", "a budget prunes", "reference"), rows)
    for column in view.columns:
        column.justify = "left"
    out.print(view)
    write_json(json, {name: {**asdict(method.about), "to_budget": to_budget[name]} for name, method in facts.items()})
    if problems:
        raise ConfigError(" ".join(problems))
    next_step("edgeoe compress --method METHOD ...")
    return 0
