"""Distributions of other people: a file of Python and its entry points, as pip would leave them on sys.path."""

from __future__ import annotations

from pathlib import Path


def write_distribution(site: Path, module: str, source: str, **groups: dict[str, str]) -> None:
    """Write `module`.py into the folder `site`, and a distribution of that name, version 1.2, that adds rows.

    groups: the rows, by entry point group without its "edgeoe.".
    """
    (site / f"{module}.py").write_text(source, encoding="utf-8")
    folder = site / f"{module}-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n", encoding="utf-8")
    lines = []
    for group, rows in groups.items():
        lines += [f"[edgeoe.{group}]", *(f"{name} = {at}" for name, at in rows.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
