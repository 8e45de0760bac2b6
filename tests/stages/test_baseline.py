"""Baselines are kept under their own hash, and found whole or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import result

from edgeoe.errors import ConfigError, RunError
from edgeoe.records.result import Result
from edgeoe.stages.baseline import Store


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "built" / "model.plan"
    path.parent.mkdir()
    path.write_bytes(b"a plan")
    path.with_name("model.plan.json").write_text("its sidecar")
    return path


@pytest.fixture
def own(artifact: Path) -> Result:
    sha256 = hashlib.sha256(artifact.read_bytes()).hexdigest()
    return result(artifact=artifact.name, artifact_sha256=sha256)


def test_what_is_saved_is_found(tmp_path: Path, own: Result, artifact: Path) -> None:
    store = Store(tmp_path / "baselines")
    store.save("main", own, artifact)
    found = store.find("main", "host-cpu")
    assert found.artifact is not None
    assert found.artifact.read_bytes() == b"a plan"
    assert found.artifact.name == f"{own.artifact_sha256}.plan"
    assert found.artifact.with_name(found.artifact.name + ".json").read_text() == "its sidecar"
    assert (found.result.artifact_sha256, found.result.target) == (own.artifact_sha256, own.target)
    assert [(saved.name, saved.target) for saved in store] == [("main", "host-cpu")]


def test_an_artifact_is_stored_once(tmp_path: Path, own: Result, artifact: Path) -> None:
    store = Store(tmp_path / "baselines")
    for name in ("main", "v1.0", "main"):
        store.save(name, own, artifact)
    assert len(list((tmp_path / "baselines" / "objects").iterdir())) == 2, "the plan and its sidecar"
    assert [saved.name for saved in store] == ["main", "v1.0"]


def test_a_result_without_its_artifact_is_kept_alone(tmp_path: Path, own: Result) -> None:
    store = Store(tmp_path / "baselines")
    store.save("main", own, None)
    assert store.find("main", "host-cpu").artifact is None


def test_a_changed_artifact_is_not_taken(tmp_path: Path, own: Result, artifact: Path) -> None:
    store = Store(tmp_path / "baselines")
    store.save("main", own, artifact)
    kept = tmp_path / "baselines" / "objects" / f"{own.artifact_sha256}.plan"
    kept.write_bytes(b"another")
    with pytest.raises(RunError, match="not the file that was saved"):
        store.find("main", "host-cpu")


@pytest.mark.parametrize("name", ["objects", "", "a/b", "..", ".hidden", "a b"])
def test_names_that_would_lead_elsewhere_are_refused(tmp_path: Path, own: Result, name: str) -> None:
    with pytest.raises(ConfigError, match="--name takes letters"):
        Store(tmp_path / "baselines").save(name, own, None)
    assert not (tmp_path / "baselines").exists()


def test_an_unknown_baseline_is_answered_with_those_that_are_there(tmp_path: Path, own: Result) -> None:
    store = Store(tmp_path / "baselines")
    with pytest.raises(ConfigError, match=r"no baseline 'main' for host-cpu\. It is empty\. Save one: edgeoe baseline"):
        store.find("main", "host-cpu")
    store.save("main", own, None)
    with pytest.raises(ConfigError, match="Did you mean 'main'"):
        store.find("mian", "host-cpu")
    with pytest.raises(ConfigError, match=r"no baseline 'main' for t4\. It has host-cpu"):
        store.find("main", "t4")


def test_targets_of_one_baseline_lie_side_by_side(tmp_path: Path, own: Result) -> None:
    store = Store(tmp_path / "baselines")
    store.save("main", own, None)
    store.save("main", replace(own, target=replace(own.target, name="t4")), None)
    assert [saved.target for saved in store] == ["host-cpu", "t4"]


@pytest.mark.parametrize("with_artifact", [True, False])
def test_a_store_that_cant_be_written_is_one_line(
    with_artifact: bool, tmp_path: Path, own: Result, artifact: Path
) -> None:
    (tmp_path / "baselines").write_text("a file where a folder should be")
    with pytest.raises(ConfigError, match=r"--store .*baselines: can't be written: Not a directory\.$"):
        Store(tmp_path / "baselines").save("main", own, artifact if with_artifact else None)
