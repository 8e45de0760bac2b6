"""Facts that every stage after `compress` needs: classes, their samples, and preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MinLen

from edgeoe.data.preprocess import Preprocess

__all__ = ["RunFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts about a run that no stage changes.

    classes: their names, in the order of the teacher's outputs.
    counts: labelled samples of each class.
    preprocess: preprocessing of images to inputs.
    random_weights: whether the teacher is untrained.
    """

    classes: Annotated[tuple[str, ...], MinLen(2)]
    counts: tuple[Annotated[int, Ge(0)], ...]
    preprocess: Preprocess
    random_weights: bool = False

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.classes):
            raise ValueError(f"counts: {len(self.counts)} values for {len(self.classes)} classes")
        self.preprocess.require_possible()
