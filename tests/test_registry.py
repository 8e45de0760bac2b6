"""Tables of interchangeable parts."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from edgeoe.errors import ConfigError
from edgeoe.method import Method
from edgeoe.registry import BACKENDS, METHODS, Table, nearest


@pytest.mark.parametrize("table", [METHODS, BACKENDS], ids=["methods", "backends"])
def test_every_row_leads_to_a_part(table: Table) -> None:
    assert table
    for name in table:
        part = table.load(name)
        assert isinstance(part, Method) or callable(part.build)


def test_an_unknown_name_is_answered_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"^unknown backend 'onnxruntim'\. Did you mean 'onnxruntime'\?$"):
        BACKENDS.load("onnxruntim")


def test_a_name_like_no_other_is_answered_with_all_in_order() -> None:
    with pytest.raises(ConfigError, match=r"^unknown method 'zzz'\. Known: kd, none\.$"):
        Table("method", {"none": "a:B", "kd": "c:D"}, group="edgeoe.nothing").load("zzz")


@examples(deadline=None)
@given(name=st.text(), known=st.lists(st.text("abcdef", min_size=1), min_size=1))
def test_the_answer_always_names_something_known(name: str, known: list[str]) -> None:
    answer = nearest(name, known)
    assert any(one in answer for one in known)


@given(known=st.lists(st.text("abcdef", min_size=1), min_size=1, unique=True))
def test_a_name_is_its_own_nearest(known: list[str]) -> None:
    assert nearest(known[0], known) == f"Did you mean {known[0]!r}?"


ROWS = {"plain": "json:loads"}
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install("theirs", plain="json:dumps")`: a distribution with these rows, as pip would leave it on sys.path."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def add(distribution: str, **rows: str) -> None:
        folder = tmp_path / f"{distribution}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text(
            "\n".join(["[edgeoe.tests]", *(f"{n} = {r}" for n, r in rows.items())])
        )

    return add


def table() -> Table:
    return Table("part", ROWS, group="edgeoe.tests")


def test_a_distribution_adds_rows(install: Install) -> None:
    install("theirs", other="json:dumps")
    both = table()
    assert dict(both) == {**ROWS, "other": "json:dumps"}
    assert len(both) == 2
    assert both.load("other") is json.dumps
    assert (both.distribution("plain"), both.distribution("other")) == ("", "theirs 1.2")
    assert both.problems() == []
    assert list(Table("part", ROWS, group="edgeoe.others")) == ["plain"]


def test_a_name_of_edgeoe_stays_its_own_and_the_other_claim_is_a_problem(install: Install) -> None:
    install("theirs", plain="json:dumps", other="json:dumps")
    both = table()
    assert both.load("plain") is json.loads
    assert list(both) == ["plain", "other"]
    assert both.problems() == [
        "part 'plain' is claimed by edgeoe and theirs 1.2. The one of edgeoe is used: rename or uninstall theirs 1.2."
    ]


def test_a_name_that_two_distributions_claim_is_neithers(install: Install) -> None:
    install("theirs", other="json:dumps")
    install("ours", other="json:loads")
    message = "part 'other' is claimed by ours 1.2 and theirs 1.2. Uninstall all but one of them."
    assert table().problems() == [message]
    assert list(table()) == ["plain"]
    with pytest.raises(ConfigError) as raised:
        table().load("other")
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("no_such_module_here:X", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("json:no_such_name", "AttributeError: module 'json' has no attribute 'no_such_name'"),
        ("json", "AttributeError: "),
    ],
)
def test_a_broken_part_is_one_line_that_names_its_distribution(install: Install, row: str, why: str) -> None:
    install("theirs", other=row)
    assert table().load("plain") is json.loads
    with pytest.raises(ConfigError) as raised:
        table().load("other")
    line = str(raised.value)
    assert line.startswith(f"part 'other' of theirs 1.2 can't be imported from {row}: {why}")
    assert line.endswith("Repair or uninstall that distribution.")
    assert "\n" not in line
