"""What is measured of an artifact, wherever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import QUICK, result, speed
from numpy.typing import NDArray

from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.files import file_sha256
from edgeoe.measure import artifact as of_artifact
from edgeoe.measure.artifact import measure_artifact
from edgeoe.progress import silent
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.targets.load import load_target


@pytest.mark.parametrize(("wrong", "agreement"), [(0, 1.0), (1, 15 / 16)])
def test_agreement_is_that_of_the_golden_images(exported: Path, wrong: int, agreement: float) -> None:
    golden = Run.open(exported).read_tensors(layout.GOLDEN)
    golden = {part: array[:16].copy() for part, array in golden.items()}
    golden["logits"][:wrong] *= -1
    graph = exported / "student.onnx"
    result = measure_artifact(
        graph,
        replace(load_target("host-cpu"), measure=QUICK),
        OnnxRuntime(),
        golden=golden,
        predictions=lambda runner: None,
        classes=["circle", "cross", "square"],
        rare=[2],
        settings={"threads": 1},
        progress=silent,
    )
    assert result.golden_agreement == pytest.approx(agreement)
    assert result.predictions is None
    assert (result.artifact, result.artifact_sha256) == ("student.onnx", file_sha256(graph))
    assert result.size_bytes == graph.stat().st_size
    assert (result.classes, result.rare, result.bundle_sha256) == (("circle", "cross", "square"), (2,), "")
    assert result.speed is not None
    assert len(result.speed.calls_ms) == 2
    assert "onnxruntime" in result.environment["versions"]
    assert np.isfinite(result.speed.load_ms).all()


class Negating:
    """A runtime whose artifact negates; it notes what it opened."""

    def __init__(self) -> None:
        self.opened: list[Any] = []

    @contextmanager
    def open(self, artifact: Path, target: Any) -> Iterator[Any]:
        self.opened.append((artifact, target))
        yield self

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return -x

    def versions(self) -> dict[str, str]:
        return {"negating": "1.0"}


@pytest.mark.parametrize("elsewhere", [(), ("this is x86_64, pi is aarch64",)])
def test_all_that_was_measured_is_in_the_result(
    elsewhere: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.neg").write_bytes(b"12345")
    target, facts = load_target("raspberry-pi-5"), {"cpu": "Some CPU"}
    backend: Any = Negating()
    timed: list[Any] = []
    monkeypatch.setattr(of_artifact, "environment", lambda: facts)
    monkeypatch.setattr(of_artifact, "differences", lambda of, here: elsewhere if (of, here) == (target, facts) else 1)
    monkeypatch.setattr(of_artifact, "measure_speed", lambda *args, **more: timed.append((args, more)) or speed())
    seen = result().predictions
    measured = measure_artifact(
        tmp_path / "a.neg",
        target,
        backend,
        golden={
            "images": np.eye(3, dtype=np.float32),
            "logits": np.array([[-9, 1, 0], [0, 9, 1], [1, 0, -9]], np.float32),
        },
        predictions=lambda runner: seen if runner is backend else None,
        classes=["a", "b", "c"],
        rare=[1, 0],
        settings={"threads": 3},
        bundle_sha256="7" * 64,
        progress=silent,
    )
    assert measured.target is target
    assert backend.opened == [(tmp_path / "a.neg", target)]
    assert measured.golden_agreement == pytest.approx(2 / 3)
    assert measured.predictions is seen
    assert (measured.artifact, measured.size_bytes) == ("a.neg", 5)
    assert measured.environment == {"cpu": "Some CPU", "versions": {"negating": "1.0"}}
    assert (measured.rare, measured.settings, measured.bundle_sha256) == ((1, 0), {"threads": 3}, "7" * 64)
    assert measured.speed == (None if elsewhere else speed())
    assert timed == ([] if elsewhere else [((tmp_path / "a.neg", target), {"progress": silent})])
