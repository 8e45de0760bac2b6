"""Kills `edgeoe compress` at random moments (SIGKILL) and starts it again: is the student the same, and what was lost?

For each method an undisturbed compression makes the student to compare with. The same command is then killed, some
times in a row, after random delays, and let run to its end. What a kill lost is the time since the work was saved last.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter, time

import numpy as np
from PIL import Image

from edgeoe.files import file_sha256
from edgeoe.run.saved_work import saved_work_folder

__all__ = ["Trial", "campaign"]

METHODS = ("kd", "mir", "fskd")  # whose students depend on no measured latency
_SERVER = multiprocessing.get_context("forkserver")  # whose processes have imported everything


@dataclass(frozen=True, slots=True)
class Trial:
    """A compression that was killed and went on.

    kills: how often it was killed before its end.
    lost_s: time since the last save, at each kill.
    same: whether it ended with the student of the undisturbed compression.
    leftovers: names beside the run once it is there.
    """

    method: str
    kills: int
    lost_s: tuple[float, ...]
    same: bool
    leftovers: tuple[str, ...]


def campaign(
    folder: Path, *, kills: int, seed: int, every_s: float, steps: int, kills_each: int = 3
) -> Iterator[Trial]:
    """Trials until there were `kills` kills at least; those of one seed have the same delays.

    folder: an empty one.
    every_s: seconds between two saves.
    steps: of training.
    kills_each: kills of one compression at most.
    """
    write_pictures(folder)
    chosen = random.Random(seed)  # noqa: S311 - delays
    whole: dict[str, tuple[str, float]] = {}  # {method: hash of the student, seconds}
    done = 0
    while done < kills:
        method = METHODS[len(whole)] if len(whole) < len(METHODS) else chosen.choice(METHODS)
        if method not in whole:
            started = perf_counter()
            compress(folder, method, f"whole-{method}", every_s=every_s, steps=steps).join()
            whole[method] = student(folder / f"whole-{method}"), perf_counter() - started
        expected, seconds = whole[method]
        lost: list[float] = []
        run = folder / "run"
        for _ in range(min(kills_each, kills - done)):
            started = time()
            process = compress(folder, method, run.name, every_s=every_s, steps=steps)
            process.join(chosen.uniform(0.0, 1.0) * seconds)
            if process.exitcode is not None:  # what was left to do took less
                break
            process.kill()
            process.join()
            lost.append(0.0 if run.exists() else time() - max(started, last_save(run)))
            if run.exists():
                break
        if not run.exists():
            compress(folder, method, run.name, every_s=every_s, steps=steps).join()
        done += len(lost)
        beside = tuple(sorted(path.name for path in folder.iterdir() if path.name.startswith(".run.")))
        yield Trial(method, len(lost), tuple(lost), run.exists() and student(run) == expected, beside)
        for name in (run.name, *beside):
            shutil.rmtree(folder / name, ignore_errors=True)


def compress(folder: Path, method: str, out: str, *, every_s: float, steps: int) -> BaseProcess:
    """Start a compression in `folder` into its folder `out`."""
    words = ["compress", "--teacher", "timm:test_resnet", "--weights", "random", "--samples", "few", "--ood", "ood"]
    words += ["--method", method, "--steps", str(steps), "--batch", "16", "--keep-macs", "0.5", "--out", out]
    words += ["--accelerator", "cpu", "--precision", "fp32", "-q"]
    process = _SERVER.Process(target=_run, args=(folder, words, every_s))
    process.start()
    return process


def _run(folder: Path, words: list[str], every_s: float) -> None:
    from edgeoe.cli import main
    from edgeoe.run import saved_work

    os.chdir(folder)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    saved_work.EVERY_S = every_s
    main(words)


def last_save(run: Path) -> float:
    """When the work of an unfinished `run` was saved last, in seconds since the epoch; 0 if it was not."""
    index = saved_work_folder(run) / "index.json"
    return index.stat().st_mtime if index.is_file() else 0.0


def student(run: Path) -> str:
    """The hash of the student's weights and plan."""
    return " ".join(file_sha256(run / "student" / name) for name in ("weights.safetensors", "plan.json"))


def write_pictures(folder: Path) -> None:
    """18 samples in 3 classes and 200 OOD images, all noise, and settings that fit."""
    rng = np.random.default_rng(0)
    names = [f"few/{k}/{i}.png" for k in range(3) for i in range(6)] + [f"ood/{i}.png" for i in range(200)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(folder / name)
    (folder / "edgeoe.toml").write_text("[preprocess]\nsize = [32, 32]\n[oe]\nood_batch = 16\ncheck_every = 5\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two saves; edgeoe itself waits 30")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    _SERVER.set_forkserver_preload(["edgeoe.cli", "edgeoe.stages.compress", "timm"])
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as scratch:
        for trial in campaign(
            Path(scratch), kills=options.kills, seed=options.seed, every_s=options.every, steps=options.steps
        ):
            trials.append(trial)
            lost = ", ".join(f"{seconds:.1f}" for seconds in trial.lost_s)
            outcome = "same student" if trial.same else "ANOTHER STUDENT"
            print(f"{trial.method}: {trial.kills} kills, lost {lost or '-'} s: {outcome}", flush=True)
    lost_s = [seconds for trial in trials for seconds in trial.lost_s]
    same = sum(trial.same for trial in trials)
    left = sum(bool(trial.leftovers) for trial in trials)
    print(
        f"{len(lost_s)} kills of {len(trials)} compressions: {same} ended with the same student, {left} left something "
        f"beside the run; lost at a kill: median {statistics.median(lost_s):.1f} s, worst {max(lost_s):.1f} s"
    )
    sys.exit(0 if same == len(trials) else 1)


if __name__ == "__main__":
    main()
