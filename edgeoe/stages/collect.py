"""collect: a result that a bundle wrote on a device -> measurement and verdict in the run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeoe.errors import RunError, quoted
from edgeoe.measure.predictions import Predictions
from edgeoe.measure.result import read_result
from edgeoe.records import Measurement, Target, Verdict
from edgeoe.run import Run, file_sha256
from edgeoe.stages.bundle import bundle_facts_file, teacher_file
from edgeoe.stages.validate import conclude

__all__ = ["collect"]


def collect(run: Run, path: Path, *, target: Target | None = None) -> tuple[Target, Measurement, Verdict]:
    """Read the result at `path` into the run, and judge it.

    target: a profile whose budget judges instead of the one that was bundled.
    Raises RunError if the result did not come from this run's latest bundle for its target.
    """
    result = read_result(path)
    name = result.target.name
    if target is not None and target.name != name:
        raise RunError(f"{path}: a result for {name}, not for {target.name}.")
    made_by = f"bundle {quoted(run.path)} --target {quoted(name)}"
    facts = run.file(bundle_facts_file(name), made_by=made_by)
    if file_sha256(facts) != result.bundle_sha256:
        raise RunError(f"{path}: not from the bundle that {run.path} made last for {name}. Run that one on the device.")
    teacher = None
    if (run.path / teacher_file(name)).is_file():
        decode = partial(Predictions.from_json, classes=len(result.classes))
        teacher = run.decoded(decode, teacher_file(name), made_by=made_by)
    if teacher and result.predictions and teacher.test_sha256 != result.predictions.test_sha256:
        raise RunError(f"{path}: its predictions are of other test images than {made_by} took. Run the bundle again.")
    judged_by = target or result.target
    measurement, verdict = conclude(run, judged_by, result, teacher)
    return judged_by, measurement, verdict
