"""A compression that is killed and started again makes the student of one that is not, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from safetensors.torch import save_model
from stages.killed_compress import compress_killed
from torch import nn

from edgeoe.pruning.prune import count_macs
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.saved_work import saved_work_folder
from edgeoe.settings import CompressSettings, OESettings

PLAN = OESettings(holdout=0.5, check_every=2)


@pytest.fixture
def asked(
    settings: CompressSettings, network: Callable[[str], nn.Module], teacher_file: Path, tmp_path: Path
) -> CompressSettings:
    """Settings with a teacher of residual blocks."""
    weights = tmp_path / "stages.safetensors"
    save_model(network("stages"), str(weights))
    return replace(settings, teacher=f"{teacher_file}:stages", weights=weights, oe_settings=PLAN)


def student(path: Path) -> tuple[bytes, object]:
    run = Run.open(path)
    return run.file(layout.WEIGHTS).read_bytes(), run.read(layout.PLAN)


@pytest.mark.parametrize(
    ("method", "budget"),
    [("mir", 0.0), ("mir", 0.6), ("kd", 0.0), ("kd", 0.6), ("practise", 0.0), ("practise", 0.7), ("cd", 0.0)],
)
def test_a_compression_that_is_killed_at_random_goes_on_to_the_same_student(
    method: str, budget: float, asked: CompressSettings, network: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    whole_ms = count_macs(network("stages"), (3, 16, 16)) / 1e6
    share = {"latency_ms": budget * whole_ms} if budget else {"keep_macs": 0.6}
    options = {"recovery_steps": 2} if method == "practise" and not budget else {}
    settings = replace(asked, method=method, options=options, **share)  # type: ignore[arg-type]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    events = compress_killed(settings, whole)
    assert events > 20
    chosen = np.random.default_rng(crc32(f"{method} {budget}".encode()))
    for event in (int(chosen.integers(events // 4, events)), int(chosen.integers(1, events))):
        if compress_killed(settings, resumed, event=event):
            break  # what was left to do had fewer events
        assert not resumed.exists(), "nothing is there before it is whole"
    else:
        assert compress_killed(settings, resumed)
    assert student(resumed) == student(whole)
    assert not saved_work_folder(resumed).exists()
