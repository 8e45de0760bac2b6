"""The result of `deploy` on one target: a verdict, a bundle for another machine, or why its device gave no result."""

from __future__ import annotations

from dataclasses import dataclass

from edgeoe.records.bundle import BundleRecord
from edgeoe.records.measurement import Outcome, Validation
from edgeoe.run.directory import Run
from edgeoe.targets.here import not_measured
from edgeoe.targets.profile import Target

__all__ = ["Bundled", "Deployed", "Judged", "Unreached"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Judged:
    """A verdict for a target: its artifact was built and measured, here or on a device that SSH reaches, and judged.

    run: the student's.
    """

    run: Run
    validation: Validation

    @property
    def target(self) -> Target:
        """The target."""
        return self.validation.target

    @property
    def outcome(self) -> Outcome:
        """The verdict's outcome."""
        return self.validation.outcome

    def __repr__(self) -> str:
        return f"Judged({self.validation.summary})"

    def _repr_html_(self) -> str | None:
        """Figures and verdict as a page, for notebooks."""
        return self.validation._repr_html_()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Bundled:
    """A bundle for a target that is another machine; nothing is judged yet.

    run: the student's.
    differs: differences of this machine from the target's device.
    """

    run: Run
    target: Target
    bundle: BundleRecord
    differs: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """Inconclusive: it was not measured."""
        return "inconclusive"

    def __repr__(self) -> str:
        return f"Bundled({self.target.name!r}: {not_measured(self.differs)}; take {self.bundle.path} there)"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Unreached:
    """A device that gave no result; nothing is judged.

    run: the student's.
    reason: why, and what to do.
    """

    run: Run
    target: Target
    reason: str

    @property
    def outcome(self) -> Outcome:
        """Inconclusive: it was not measured."""
        return "inconclusive"

    def __repr__(self) -> str:
        return f"Unreached({self.reason})"


Deployed = Judged | Bundled | Unreached
