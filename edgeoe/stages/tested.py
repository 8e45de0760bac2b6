"""Predictions of both sides of a comparison on test images that lie here, so that no result is taken at its word."""

from __future__ import annotations

from pathlib import Path

from edgeoe.backends import backend_of
from edgeoe.backends.admission import require_admitted
from edgeoe.codec import from_json
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import SampleFiles, find_test, load_samples
from edgeoe.errors import RunError
from edgeoe.measure.predictions import predict
from edgeoe.progress import Progress, silent
from edgeoe.records.result import Predictions
from edgeoe.run import layout
from edgeoe.stages.sides import Side, Tested, classes_of, noted, rare_of
from edgeoe.targets.profile import Target

__all__ = ["predict_here"]


def predict_here(
    base: Side, new: Side, target: Target, *, test: Path, follow_links: bool = False, progress: Progress = silent
) -> Tested:
    """Let both artifacts predict the images under `test`, each with its own preprocessing.

    follow_links: follow links that lead out of `test`.
    Raises RunError if an artifact is missing, or says nothing of its classes or preprocessing, or if the classes
    differ; BackendError if one can't run here.
    """
    classes = classes_of(base)
    if classes_of(new) != classes:
        raise RunError(
            f"{new.name}: its classes are {', '.join(classes_of(new))}, and those of {base.name} are "
            f"{', '.join(classes)}. Accuracy is compared between networks of the same classes."
        )
    files = find_test(test, classes, follow_links=follow_links)
    predictions = [_predictions(side, target, files, progress) for side in (base, new)]
    return Tested(base=predictions[0], new=predictions[1], classes=classes, rare=rare_of(base))


def _predictions(side: Side, target: Target, files: SampleFiles, progress: Progress) -> Predictions:
    if side.artifact is None:
        raise RunError(f"{side.name}: only a result is at hand, and --test needs the artifact. Leave --test out.")
    require_admitted(side.artifact)
    preprocess = _preprocess(side)
    samples = load_samples(files, preprocess, progress=progress, title="Reading test images")
    with backend_of(target).open(side.artifact, target) as runner:
        return predict(
            lambda pixels: runner.infer(preprocess.normalise(pixels)),
            samples.images.rows,
            samples.labels,
            progress=progress,
        )


def _preprocess(side: Side) -> Preprocess:
    if side.run:
        return side.run.read(layout.FACTS).preprocess
    try:
        preprocess = from_json(Preprocess, noted(side, "preprocess"))
        preprocess.require_possible()
        return preprocess
    except ValueError as reason:
        raise RunError(f"{side.name}: its preprocessing is not in the format of this edgeoe ({reason}).") from None
