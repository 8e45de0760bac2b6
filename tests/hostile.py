"""A folder whose files must not be imported by a program that happens to be started in it."""

from __future__ import annotations

from pathlib import Path

MODULES = ("json.py", "statistics.py", "onnxruntime.py", "numpy/__init__.py", "edgeoe/__init__.py", "sitecustomize.py")


def hostile_folder(folder: Path) -> Path:
    """Write MODULES into `folder`, each of which notes in `folder`/imported that it was: that folder."""
    for name in MODULES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(folder / 'imported')!r}, 'a').write({name!r} + ' ')\n", encoding="utf-8")
    return folder


def imported(folder: Path) -> str:
    """Which of them were imported."""
    marks = folder / "imported"
    return marks.read_text(encoding="utf-8") if marks.exists() else ""
