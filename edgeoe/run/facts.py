"""What every stage after `compress` must know of a run: its classes, their samples, and the preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MinLen

from edgeoe.data.preprocess import Preprocess

__all__ = ["RunFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts of a run that no stage changes.

    classes: their names, in the order of the teacher's outputs.
    counts: labelled samples of each class.
    preprocess: how images become inputs.
    random_weights: the teacher was never trained.
    """

    classes: Annotated[tuple[str, ...], MinLen(2)]
    counts: tuple[Annotated[int, Ge(0)], ...]
    preprocess: Preprocess
    random_weights: bool = False

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.classes):
            raise ValueError(f"counts: {len(self.counts)} of {len(self.classes)} classes")
