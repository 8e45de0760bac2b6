"""A compression that is killed and started again makes the student of one that is not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from safetensors.torch import save_model
from stages.killed_compress import compress_killed
from torch import nn
from torch.optim import SGD

from edgeoe.pipeline import compress, export
from edgeoe.pruning.prune import count_macs
from edgeoe.run import layout, saved_work
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


def test_the_work_of_a_run_that_is_in_its_place_goes_with_the_next_command(
    asked: CompressSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process is killed after it has moved the run, and before it removes its work."""
    monkeypatch.setattr(saved_work, "EVERY_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(saved_work.SavedWork, "remove", lambda _: None)
        run = compress(replace(asked, oe=False, ood=None), out=tmp_path / "run")
    assert run is not None
    assert saved_work_folder(run.path).is_dir()
    export(run)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "stages.safetensors"}


# By the command line

Edgeoe = Callable[..., tuple[int, str, str]]
_TOML = "[preprocess]\nsize = [16, 16]\nmean = [0.4, 0.4, 0.4]\nstd = [0.3, 0.3, 0.3]\n"
# Kills itself after the fifth state that it saves, where the first argument says so.
_DRIVER = """
import os, signal, sys
from edgeoe.run import saved_work
saved_work.EVERY_S = 0.0
save, saved = saved_work.SavedWork.save, []
def counted(*arguments):
    save(*arguments)
    saved.append(1)
    if len(saved) == 5 and sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
saved_work.SavedWork.save = counted
from edgeoe.cli import main
main(sys.argv[2:])
"""


def words(settings: CompressSettings, *, steps: int) -> list[str]:
    return [
        *("compress", "--teacher", settings.teacher, "--weights", str(settings.weights)),
        *("--samples", str(settings.samples), "--no-oe", "--steps", str(steps), "--batch", "8", "--out", "run"),
        *("--accelerator", "cpu", "--precision", "fp32", "--channel-multiple", "1"),
    ]


def test_after_an_interruption_the_same_command_goes_on_and_says_where(
    settings: CompressSettings, edgeoe: Edgeoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgeoe.toml").write_text(_TOML)
    monkeypatch.setattr(saved_work, "EVERY_S", 0.0)
    was = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        steps = iter(range(4))
        step: Callable[..., Any] = SGD.step

        def interrupted(*arguments: Any, **options: Any) -> Any:
            if next(steps) == 3:
                signal.raise_signal(signal.SIGINT)
            return step(*arguments, **options)

        patch.setattr(SGD, "step", interrupted)
        try:
            code, _, err = edgeoe(*words(settings, steps=6))
        finally:
            signal.signal(signal.SIGINT, was)
    assert code == 130
    assert err.splitlines()[-1] == (
        "interrupted: nothing half-written was left. The same command goes on where it stopped."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.resume", "edgeoe.toml"]
    code, _, err = edgeoe(*words(settings, steps=7))
    assert code == 0
    assert "edgeoe: starts anew: the interrupted compression differed in: steps." in err
    assert "goes on" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edgeoe.toml", "run"]


@pytest.mark.slow
def test_several_processes_go_on_together(settings: CompressSettings, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(_DRIVER)

    def finished(folder: str, *, killed: bool) -> subprocess.CompletedProcess[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "edgeoe.toml").write_text(_TOML)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.run(
            [*command, str(driver), "killed" if killed else "", *words(settings, steps=10)],
            cwd=tmp_path / folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )

    assert finished("whole", killed=False).returncode == 0
    assert finished("resumed", killed=True).returncode != 0
    assert not (tmp_path / "resumed" / "run").exists()
    resumed = finished("resumed", killed=False)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("Mimicking features: goes on at step 5 of 10") == 1
    assert student(tmp_path / "resumed" / "run") == student(tmp_path / "whole" / "run")
