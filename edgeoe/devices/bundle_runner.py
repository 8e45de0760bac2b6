"""The runner of a bundle on a device: build, check the golden outputs, predict, measure, and write one result.

It needs Python, numpy and the target's runtime; the bundle contains the modules of edgeoe that it imports.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeoe.backends import Runner, backend_of
from edgeoe.data.pixels import normalise
from edgeoe.devices.unpacked import FACTS, lines, read_facts, run_program
from edgeoe.errors import BackendError, RunError, quoted
from edgeoe.files import file_sha256
from edgeoe.machine.environment import environment
from edgeoe.measure.artifact import measure_artifact
from edgeoe.measure.predictions import predict
from edgeoe.measure.statistics import nearest_rank
from edgeoe.progress import Progress
from edgeoe.records.bundle import FORMAT, BundleFacts, Normalisation
from edgeoe.records.result import Predictions, Result, SpeedSamples
from edgeoe.run.placement import partial_folder, work_folder
from edgeoe.run.result_file import artifact_folder, artifact_of, read_result, write_result
from edgeoe.targets.here import differences, not_measured

__all__ = ["main", "run_bundle"]

_PATIENCE_S = 5.0  # how long the program waits for another that writes the same result


def run_bundle(bundle: Path, out: Path, *, progress: Progress) -> Result:
    """Build, check and measure the artifact of an unpacked bundle, and write the result.

    bundle: its folder.
    out: path of the result; the artifact is kept in `artifact_folder(out)`. Only an earlier result is overwritten.
    Raises RunError if a file of the bundle was changed or `out` holds anything else, BackendError if the runtime is
    missing or refuses the graph, or if this machine is not the device and the artifact is not portable.
    """
    facts = read_facts(BundleFacts, bundle, format=FORMAT)
    _require_overwritable(out)
    target = facts.target
    backend = backend_of(target)
    differs = differences(target, environment())
    if differs and not backend.traits.portable:
        raise BackendError(f"not built here: {'; '.join(differs)}. A plan is built on the device that runs it.")
    backend.check(target)
    with work_folder(out, timeout_s=_PATIENCE_S):
        folder = partial_folder(out)
        artifact = folder / f"model{backend.traits.suffix}"
        settings = backend.build(bundle / "model.onnx", target, artifact, progress=progress)
        result = measure_artifact(
            artifact,
            target,
            backend,
            golden={part: np.load(bundle / f"golden-{part}.npy") for part in ("images", "logits")},
            predictions=lambda runner: _predictions(bundle, runner, facts.preprocess, progress),
            classes=facts.classes,
            rare=facts.rare,
            settings=settings,
            bundle_sha256=file_sha256(bundle / FACTS),
            progress=progress,
        )
        destination = artifact_folder(out)
        destination.mkdir(exist_ok=True)
        for file in folder.glob(f"{artifact.name}*"):
            file.replace(destination / file.name)
    write_result(out, result)
    return result


def _require_overwritable(out: Path) -> None:
    """Raise RunError if `out` or its artifact folder exists and was not written by an earlier run of a bundle."""
    folder, former = artifact_folder(out), None
    if os.path.lexists(out):
        try:
            former = read_result(out)
        except RunError:
            raise RunError(f"{out}: exists and is not the result of a bundle. Choose another --out.") from None
    if os.path.lexists(folder):
        artifact = folder / former.artifact if former else folder
        unchanged = former and artifact.is_file() and file_sha256(artifact) == former.artifact_sha256
        if folder.is_symlink() or not unchanged:
            raise RunError(f"{folder}: exists and was not written by an earlier run. Choose another --out.")


def _predictions(bundle: Path, runner: Runner, preprocess: Normalisation, progress: Progress) -> Predictions | None:
    if not (bundle / "test-images.npy").is_file():
        return None
    pixels: NDArray[np.uint8] = np.load(bundle / "test-images.npy", mmap_mode="r")
    prepare = partial(normalise, mean=preprocess.mean, std=preprocess.std)
    return predict(
        lambda images: runner.infer(prepare(images)),
        lambda rows: np.asarray(pixels[rows]),
        np.load(bundle / "test-labels.npy"),
        progress=progress,
    )


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python3 run.py`: returns 0 if a result was written, 130 if interrupted, otherwise 2."""
    return run_program(
        lambda bundle, out: _summary(run_bundle(bundle, out, progress=lines), out),
        about="Build, check and measure this bundle's model on this device.",
        out="result.json",
        arguments=arguments,
    )


def _summary(result: Result, out: Path) -> str:
    predictions = result.predictions
    correct = np.equal(predictions.chosen, predictions.labels) if predictions else np.zeros(0)
    lines = [
        f"{result.target.name}: {artifact_of(out, result)}, {result.size_bytes / 1e6:.3f} MB",
        f"same class as the student on {100 * (result.golden_agreement or 0):.1f} % of the golden images",
        *([f"top-1 {100 * correct.mean():.1f} % of {len(correct)}"] if len(correct) else []),
        *(_speed_lines(result.speed) if result.speed else [_no_latency(result)]),
        f"{out}: copy it back to the run, then: edgeoe collect RUN {quoted(out.name)}",
    ]
    return "\n".join(lines)


def _speed_lines(speed: SpeedSamples) -> list[str]:
    calls = np.concatenate([np.asarray(part) for part in speed.calls_ms])
    return [
        f"median {nearest_rank(calls, 0.50):.3f} ms of {len(calls)} calls in {len(speed.calls_ms)} processes",
        *(f"noise: {reason}" for reason in speed.disturbed),
    ]


def _no_latency(result: Result) -> str:
    return f"latency {not_measured(differences(result.target, result.environment))}"
