"""What `deploy` came to on one target: a verdict where the target is here, else a bundle to take there."""

from __future__ import annotations

from dataclasses import dataclass

from edgeoe.records.bundle import BundleRecord
from edgeoe.records.measurement import Outcome, Validation
from edgeoe.targets.profile import Target

__all__ = ["Bundled", "Judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A target that is this machine: its artifact was built, measured and judged."""

    validation: Validation

    @property
    def target(self) -> Target:
        """The target."""
        return self.validation.target

    @property
    def outcome(self) -> Outcome:
        """The verdict's outcome."""
        return self.validation.outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """A target that is another machine; nothing was judged yet.

    differs: what tells that machine from this one.
    """

    target: Target
    bundle: BundleRecord
    differs: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """Inconclusive: it was not measured."""
        return "inconclusive"
