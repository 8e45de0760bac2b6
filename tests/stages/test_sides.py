"""A name means one side; where it could mean two it is an error, and a folder can't take a baseline's place."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import QUICK, result

from edgeoe.errors import ConfigError
from edgeoe.pipeline import build
from edgeoe.run.directory import Run
from edgeoe.stages.baseline import Store
from edgeoe.stages.sides import find_side, rare_of
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK)


@pytest.fixture
def store(exported: Path, target: Target, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The baseline main in ./baselines; ./run is a run."""
    monkeypatch.chdir(exported.parent)
    build(Run("run"), target)
    store = Store(Path("baselines"))
    store.save("main", result(), None)
    return store


def test_a_run_that_is_called_like_a_baseline_does_not_hide_it(store: Store, target: Target) -> None:
    assert find_side("main", target, store).run is None
    shutil.copytree("run", "main")
    with pytest.raises(ConfigError, match=r"main: both a run and a baseline\. Say which: run:main or baseline:main"):
        find_side("main", target, store)
    assert find_side("baseline:main", target, store).result == result()
    run = find_side("run:main", target, store)
    assert (run.name, run.run is not None, run.result) == ("main", True, None)


@pytest.mark.parametrize("place", ["main", "main/x.txt"])
def test_neither_a_file_nor_another_folder_hides_it(place: str, store: Store, target: Target) -> None:
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text("")
    if place == "main":
        with pytest.raises(ConfigError, match=r"both a file and a baseline\. Say which: \./main or baseline:main"):
            find_side("main", target, store)
    assert find_side("baseline:main", target, store).result == result()


def test_a_baseline_of_another_target_makes_a_name_ambiguous_too(store: Store, target: Target) -> None:
    shutil.copytree("run", "main")
    with pytest.raises(ConfigError, match="both a run and a baseline"):
        find_side("main", replace(target, name="other"), store)


@pytest.mark.parametrize("name", ["../main", "objects", ".", "..", "main/..", "", "/etc"])
def test_a_baseline_is_never_looked_for_outside_of_its_store(name: str, store: Store, target: Target) -> None:
    Path("host-cpu.json").write_text("{}")
    assert name not in store
    with pytest.raises(ConfigError, match="no baseline"):
        store.find(name, target.name)


def test_rare_classes_are_those_of_the_side_itself(store: Store, target: Target) -> None:
    assert rare_of(find_side("baseline:main", target, store)) == result().rare
    assert rare_of(find_side("run:run", target, store)) == (2, 1, 0)
