"""What `deploy` came to on one target: a verdict where the target is here, else a bundle to take there."""

from __future__ import annotations

from dataclasses import dataclass

from edgeoe.records.measurement import Measurement, Outcome, Verdict
from edgeoe.stages.bundle import BundleRecord
from edgeoe.targets.profile import Target

__all__ = ["Bundled", "Judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A target that is this machine: its artifact was built, measured and judged."""

    target: Target
    measurement: Measurement
    verdict: Verdict

    @property
    def outcome(self) -> Outcome:
        return self.verdict.outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """A target that is another machine. differs: what tells that from this one. Nothing was judged yet."""

    target: Target
    bundle: BundleRecord
    differs: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        return "inconclusive"
