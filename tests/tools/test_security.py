"""SECURITY.md: each promise names a test that exists, and its table is the one that the code goes by."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from edgeoe.run.contents import CONTENTS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = TEXT.partition("\n## Promises\n")[2].partition("\n## ")[0]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def promises() -> list[str]:
    """Each promise, with what belongs to it."""
    return re.split(r"^- ", PROMISES, flags=re.MULTILINE)[1:]


def names_in(path: Path) -> set[str]:
    """The tests of a file that are collected: functions at its top, and methods of classes there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    nodes = [*tree.body, *(node for one in classes for node in one.body)]
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_each_promise_names_a_test() -> None:
    assert len(promises()) > 15
    assert [promise for promise in promises() if not TEST.search(promise)] == []


def test_each_test_that_is_named_exists() -> None:
    named = TEST.findall(TEXT)
    assert len(named) > 20
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(ROOT / file)]
    assert missing == []


def test_every_mention_of_a_test_is_understood() -> None:
    """A name that is written in another form would not be checked."""
    assert len(re.findall(r"::test_", TEXT)) == len(TEST.findall(TEXT))


def test_the_table_of_files_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([\w ,-]+) \| (kept|rewritten|removed) \|$", TEXT, re.MULTILINE)
    expected = [(content.pattern, ", ".join(content.holds) or "-", content.fate) for content in CONTENTS]
    assert rows == expected
