"""What is measured of an artifact, wherever it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import QUICK

from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.files import file_sha256
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
    assert len(result.speed.calls_ms) == 2
    assert "onnxruntime" in result.environment["versions"]
    assert np.isfinite(result.speed.load_ms).all()
