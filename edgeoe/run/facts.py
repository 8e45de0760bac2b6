"""What every stage after `compress` must know of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields

from edgeoe.codec import from_json
from edgeoe.data.preprocess import Preprocess
from edgeoe.run.directory import Run

__all__ = ["RunFacts", "run_facts"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """counts: few samples per class, in the order of `classes`. random_weights: the teacher never learned."""

    preprocess: Preprocess
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    random_weights: bool = False


def run_facts(run: Run) -> RunFacts:
    """The facts in the student's plan. Raises RunError if it is missing or was changed."""
    names = {field.name for field in fields(RunFacts)}
    return run.decoded(
        lambda plan: from_json(RunFacts, {key: value for key, value in plan.items() if key in names}),
        "student/plan.json",
        made_by="compress",
    )
