"""CONTRIBUTING.md names files and tables that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeoe import registry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLES = {name: table for name, table in vars(registry).items() if isinstance(table, registry.Table)}


def test_every_path_is_there() -> None:
    words = re.findall(r"`([\w./*-]+)`", TEXT) + re.findall(r"^(tools/\w+)", TEXT, re.MULTILINE)
    paths = {word for word in words if re.match(r"(edgeoe|tests|tools|targets)/", word) and "NAME" not in word}
    assert len(paths) > 20
    for path in paths:
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_is_described_with_its_entry_points(name: str) -> None:
    assert f"`{name}`, `{TABLES[name].group}`" in TEXT
