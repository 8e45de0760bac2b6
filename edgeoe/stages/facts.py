"""What every stage after `compress` must know of a run."""

from __future__ import annotations

from dataclasses import dataclass

from edgeoe.data.preprocess import Preprocess
from edgeoe.run import Run

__all__ = ["RunFacts", "run_facts"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """counts: few samples per class, in the order of `classes`. random_weights: the teacher never learned."""

    preprocess: Preprocess
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    random_weights: bool


def run_facts(run: Run) -> RunFacts:
    """The facts in the student's plan. Raises RunError if it is missing or was changed."""
    plan = run.read_record("student/plan.json", made_by="compress")
    return RunFacts(
        Preprocess.from_json(plan["preprocess"]),
        tuple(plan["classes"]),
        tuple(plan["counts"]),
        plan.get("random_weights", False),
    )
