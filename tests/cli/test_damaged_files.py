"""Whatever became of a file of a run, or of a result: a verdict, or one line and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from made_up import QUICK_PROFILE, result

from edgeoe.errors import ExportError, RunError
from edgeoe.run.directory import Run
from edgeoe.run.result_file import read_result, write_result
from edgeoe.stages.validate import built_artifact, conclude, record_validation
from edgeoe.targets.load import load_target

Edgeoe = Callable[..., tuple[int, str, str]]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "another type": lambda _: b"[1]",
    "too little": lambda _: b"{}",
    "no text": lambda _: b"\xff\xfe\x00",
}
COMMANDS = [
    "report run",
    "compare run run --target quick --stored",
    "build run --target quick",
    "validate run --target quick --test nowhere",
    "export run",
]


@pytest.fixture
def finished(exported: Path, edgeoe: Edgeoe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./run, built and validated for the target quick; an export that gets to its exporter stops there."""
    monkeypatch.chdir(exported.parent)
    Path("targets").mkdir()
    Path("targets/quick.toml").write_text(QUICK_PROFILE, encoding="utf-8")
    assert edgeoe("build", "run", "--target", "quick")[0] == 0
    run, target = Run.open(Path("run")), load_target("quick")
    built = built_artifact(run, target)
    measured = result(target=target, artifact_sha256=built.sha256)
    record_validation(run, measured, conclude(measured, target, teacher=None, random_weights=False))

    def stop(*_: object, **__: object) -> NoReturn:
        raise ExportError("stopped")

    monkeypatch.setattr("edgeoe.stages.export.onnx_from_student", stop)
    return exported


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_a_run_ends_in_a_line(edgeoe: Edgeoe, finished: Path, damage: str) -> None:
    names = sorted(path.relative_to(finished) for path in finished.rglob("*") if path.is_file())
    assert len(names) > 10
    good = {name: (finished / name).read_bytes() for name in names}
    for name in names:
        if damage != "cut" and name.suffix not in (".json", ".toml"):
            continue  # hashes are compared before any byte is understood
        for command in COMMANDS:
            (finished / name).write_bytes(DAMAGE[damage](good[name]))
            code, _, err = edgeoe(*command.split())
            assert code in (0, 2, 3), f"{name}, {command}: {code}, {err}"
            if code == 2:
                assert err.splitlines()[-1].startswith("error: ")
            for other, data in good.items():
                (finished / other).parent.mkdir(parents=True, exist_ok=True)
                (finished / other).write_bytes(data)


def leaves(data: dict[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
    """The way to every value of nested objects, and to the objects themselves."""
    for key, value in data.items():
        yield (*path, key)
        if isinstance(value, dict) and (*path, key) != ("environment",):
            yield from leaves(value, *path, key)


def test_a_damaged_result_ends_in_a_line(edgeoe: Edgeoe, finished: Path) -> None:
    write_result(Path("good.json"), result(target=load_target("quick")))
    good = json.loads(Path("good.json").read_text(encoding="utf-8"))
    accepted, refused = [], 0
    damage: tuple[Any, ...] = (None, -1, "x", [], {}, [[]])
    for way in leaves(good):
        for wrong in damage:
            data = json.loads(json.dumps(good))
            place = data
            for key in way[:-1]:
                place = place[key]
            place[way[-1]] = wrong
            Path("bad.json").write_text(json.dumps(data), encoding="utf-8")
            try:
                read_result(Path("bad.json"))
                accepted.append(data)
            except RunError:
                refused += 1
    assert refused > 300
    assert len(accepted) > 20, "what may be missing, and what nobody computes with"
    for data in accepted[::5]:
        Path("bad.json").write_text(json.dumps(data), encoding="utf-8")
        code, _, err = edgeoe("compare", "good.json", "bad.json", "--target", "quick", "--stored")
        assert code in (0, 1, 2, 3), err
