"""A method of another distribution: one file and one row."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from edgeoe.method import load_method
from edgeoe.registry import METHODS
from edgeoe.settings import CompressSettings

Edgeoe = Callable[..., tuple[int, str, str]]
FILE = """
from dataclasses import dataclass
from typing import Annotated
from annotated_types import Ge
from edgeoe.method import About, Method, option

@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
    head_steps: Annotated[int, Ge(1)] = option("Steps in which the head alone is trained.", 2)

METHOD = Method(
    about=About(does="drops the first block and trains the head", needs="residual blocks", reference="none yet"),
    cut="head_first:FirstBlock",
    recovery="head_first:HeadAlone",
    options=(HeadOptions,),
)

class FirstBlock:
    Options = None
    measures_latency = False

    def __init__(self, settings):
        pass

    def prune(self, teacher, bench):
        from edgeoe.models.structure import read_structure
        from edgeoe.pruning.prune import drop_blocks
        blocks = read_structure(teacher, bench.shape).blocks
        return drop_blocks(teacher, [blocks[0].name], shape=bench.shape)

class HeadAlone:
    Options = HeadOptions

    def __init__(self, settings):
        self.steps = settings.options_for(HeadOptions).head_steps

    def recover(self, teacher, pruned, bench):
        from edgeoe.methods import TrainingTask
        return bench.fit(pruned.model, TrainingTask(
            name="Training the head", lr=0.01, max_steps=self.steps, label_weight=1.0,
            distance=lambda student, teacher: (student.logits - teacher.logits).square().mean(1),
            trains=lambda name: name.startswith("head."),
        ))
"""
ROW = "[edgeoe.methods]\nhead-first = head_first:METHOD\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`install(file, row)`: the distribution `theirs`, as pip leaves it on sys.path."""
    site = tmp_path / "site"
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.delitem(sys.modules, "head_first", raising=False)

    def add(file: str, row: str) -> None:
        (site / "theirs-1.2.dist-info").mkdir(parents=True)
        (site / "theirs-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
        (site / "theirs-1.2.dist-info/entry_points.txt").write_text(row)
        (site / "head_first.py").write_text(file)

    return add


@pytest.fixture
def config(settings: CompressSettings, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An edgeoe.toml with all that compress needs but the method."""
    tables = settings.to_toml()
    tables["compress"] |= {"teacher": f"{teacher_file}:stages", "weights": "random"}
    for name in ("method", "lr", "widths"):
        del tables["compress"][name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgeoe.toml").write_text(tomli_w.dumps(tables))
    return tmp_path / "edgeoe.toml"


def test_a_method_of_another_distribution_is_listed_and_runs(
    install: Callable[..., None], edgeoe: Edgeoe, config: Path, tmp_path: Path
) -> None:
    install(FILE, ROW)
    assert edgeoe("methods", "--json", "methods.json")[0] == 0
    assert json.loads(Path("methods.json").read_text())["head-first"]["needs"] == "residual blocks"
    _, out, _ = edgeoe("compress", "-h")
    assert "--head-steps" in out
    code, _, err = edgeoe("compress", "--method", "head-first", "--head-steps", "3", "--out", "run")
    assert code == 0, err
    record = json.loads((tmp_path / "run/compress.json").read_text())
    assert (record["method"], record["steps"]) == ("head-first", 3)
    assert "head_steps = 3" in (tmp_path / "run/config.toml").read_text()


def test_its_option_is_bounded_may_stand_in_the_file_and_is_its_own(
    install: Callable[..., None], edgeoe: Edgeoe, config: Path
) -> None:
    install(FILE, ROW)
    assert edgeoe("compress", "--method", "head-first", "--head-steps", "0", "--out", "run")[2] == (
        "error: --head-steps: input should be greater than or equal to 1. Got 0.\n"
    )
    assert edgeoe("compress", "--method", "kd", "--head-steps", "3", "--out", "run")[2] == (
        "error: --head-steps is for head-first; --method kd does not use it.\n"
    )
    assert edgeoe("compress", "--method", "head-first", "--lr", "3", "--out", "run")[2] == (
        "error: --lr is for kd, mir, practise; --method head-first does not use it.\n"
    )
    config.write_text(config.read_text().replace("[compress]", '[compress]\nmethod = "head-first"\nhead_steps = 0'))
    assert edgeoe("compress", "--out", "run")[2].startswith("error: --head-steps: input should be greater")
    assert edgeoe("targets", "list")[0] == 0, "no command minds the table of another"


def test_a_broken_method_is_one_line_and_hinders_no_other(
    install: Callable[..., None], edgeoe: Edgeoe, config: Path
) -> None:
    install("import no_such_module_here\n", ROW)
    line = (
        "method 'head-first' of theirs 1.2 can't be imported from head_first:METHOD: ModuleNotFoundError: "
        "No module named 'no_such_module_here'. Repair or uninstall that distribution."
    )
    code, out, err = edgeoe("methods")
    assert (code, err) == (2, f"error: {line}\n")
    assert "practise" in out
    assert edgeoe("compress", "--method", "head-first", "--out", "run")[:3:2] == (2, f"error: {line}\n")
    assert edgeoe("compress", "--method", "none", "--keep-macs", "1", "--out", "run")[0] == 0


def test_a_part_that_is_missing_names_its_distribution(
    install: Callable[..., None], edgeoe: Edgeoe, config: Path
) -> None:
    install(FILE.replace("head_first:HeadAlone", "head_first:Gone"), ROW)
    code, _, err = edgeoe("compress", "--method", "head-first", "--out", "run")
    assert code == 2
    assert err.endswith(
        "method 'head-first' of theirs 1.2 can't be imported from head_first:Gone: AttributeError: module 'head_first' "
        "has no attribute 'Gone'. Repair or uninstall that distribution.\n"
    )


def test_an_option_is_of_one_type(install: Callable[..., None], edgeoe: Edgeoe, config: Path) -> None:
    install(FILE.replace("head_steps", "lr"), ROW)
    code, _, err = edgeoe("compress", "--method", "head-first", "--out", "run")
    assert (code, err) == (
        2,
        "error: method 'head-first' of theirs 1.2: its option 'lr' is of another type than that of kd, mir, "
        "practise.\n",
    )


def test_what_is_no_method_and_a_name_that_is_taken_are_said(
    install: Callable[..., None], edgeoe: Edgeoe, config: Path
) -> None:
    install(FILE, "[edgeoe.methods]\nkd = head_first:METHOD\nodd = head_first:FirstBlock\n")
    assert load_method("kd").recovery.startswith("edgeoe."), "names of edgeoe stay its own"
    code, _, err = edgeoe("methods")
    assert code == 2
    assert "method 'kd' is claimed by edgeoe and theirs 1.2. The one of edgeoe is used: rename or" in err
    assert "method 'odd' of theirs 1.2: head_first:FirstBlock is no edgeoe.method.Method." in err
    assert "kd" in METHODS.built_in
