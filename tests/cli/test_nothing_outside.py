"""The line writes where it is told to and, below the user's folders, only what SECURITY.md lists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tomli_w
from made_up import QUICK_PROFILE

import edgeoe
from edgeoe.settings import CompressSettings

PROGRAM = """
import json, sys
from edgeoe.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code in (0, 3), (arguments, end.code)  # 3: two processes are too few to compare
"""
LINE = [
    ["deploy", "--out", "runs/a", "--test", "test", "--target", "host-cpu"],
    ["bundle", "runs/a", "--target", "host-cpu", "-o", "b.tar.gz"],
    ["baseline", "save", "runs/a", "--target", "host-cpu"],
    ["compare", "main", "runs/a", "--target", "host-cpu", "--stored"],
    ["run", "strip", "runs/a"],
    ["report", "runs/a"],
]
BELOW_HOME = {"data/edgeoe/trusted/source-SHA256"}  # that this machine vouches for the teacher's source
TEMPORARY: set[str] = set()


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def times_of(package: Path) -> dict[Path, int]:
    """When the files of edgeoe itself were written; Python may compile them at any time."""
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in files}


def test_the_line_writes_nothing_else(settings: CompressSettings, pictures: Path, tmp_path: Path) -> None:
    home, temporary, here = (tmp_path / name for name in ("home", "tmp", "here"))
    for folder in (home, temporary, here / "targets"):
        folder.mkdir(parents=True)
    (here / "targets/host-cpu.toml").write_text(QUICK_PROFILE, encoding="utf-8")
    tables = settings.to_toml()
    (here / "edgeoe.toml").write_text(tomli_w.dumps({**tables, "compress": {**tables["compress"], "steps": 2}}))
    shutil.copytree(pictures / "test", here / "test")
    before = files_below(here)
    package = Path(edgeoe.__file__).parent
    sources = times_of(package)
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
    folders = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
    ran = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM, json.dumps(LINE)], cwd=here, capture_output=True, text=True, check=False,
        env={**kept, **folders, "HOME": str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {re.sub("[0-9a-f]{64}", "SHA256", name) for name in files_below(home)} == BELOW_HOME
    assert files_below(temporary) == TEMPORARY
    new = files_below(here) - before
    assert {name.partition("/")[0] for name in new} == {"runs", "baselines", "b.tar.gz"}
    assert not [name for name in new if name.endswith(".partial")]
    assert times_of(package) == sources
