"""The traits of a backend: everything that is known of a runtime without importing it. The standard library alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edgeoe.errors import ConfigError
from edgeoe.registry import BACKENDS

if TYPE_CHECKING:
    from edgeoe.targets.issue import Issue
    from edgeoe.targets.profile import Target

__all__ = ["Processor", "Traits", "known_backends", "runs_on", "traits_of"]

Processor = Literal["cpu", "nvidia", "other"]


def _no_issues(target: Target) -> Iterator[Issue]:  # noqa: ARG001 - the default of a field
    return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a backend says of itself.

    title: the name of its runtime, for people.
    requirement: what pip installs the runtime by; empty if it needs nothing but numpy.
    extra: the extra of edgeoe that brings it; empty for a backend that is not edgeoe's own.
    modules: the runtime's top-level modules.
    suffix: of its artifacts' file names.
    portable: an artifact may be built on another machine than the device.
    processor: what does the work for a target: a CPU, an NVIDIA GPU (or a DLA beside it), or something else.
    int8_recipe: the recipe of int8 graphs that it computes fast for a target; see graph/quantize.py.
    describe: the runtime on this machine in words. Raises BackendError or ModuleNotFoundError where it is missing.
    tables: "runtime", "engine", those of the tables in a profile that it reads.
    options: the dataclass of a table of its own, which has the backend's name; None for none.
    providers: what `provider` of [runtime] may name; empty if the backend has no choice of one.
    units: what `unit` of [runtime] may name, by provider ("cpu" where there is no choice of one).
    single_thread: with threads = 1, the thread that calls does all the work for a target.
    issues: what it refuses in a profile, beside what no backend takes.
    """

    title: str
    requirement: str
    extra: str = ""
    modules: tuple[str, ...]
    suffix: str
    portable: bool
    processor: Callable[[Target], Processor]
    int8_recipe: Callable[[Target], str]
    describe: Callable[[], str]
    tables: tuple[str, ...] = ()
    options: type | None = None
    providers: tuple[str, ...] = ()
    units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    single_thread: Callable[[Target], bool] = lambda target: False  # noqa: ARG005
    issues: Callable[[Target], Iterator[Issue]] = _no_issues

    @property
    def install(self) -> str:
        """The command that installs the runtime."""
        return f"pip install 'edgeoe[{self.extra}]'" if self.extra else f"pip install {self.requirement}"


def traits_of(backend: str) -> Traits:
    """The traits of the backend of that name. Raises ConfigError for an unknown or broken one."""
    traits = getattr(BACKENDS.load(backend), "traits", None)
    if not isinstance(traits, Traits):
        raise ConfigError(f"backend {backend!r} of {BACKENDS.distribution(backend)} has no traits. Got {traits!r}.")
    return traits


def runs_on(target: Target) -> Processor:
    """What does the work for `target`: a CPU, an NVIDIA GPU (or a DLA beside it), or something else."""
    return traits_of(target.backend).processor(target)


def known_backends() -> dict[str, Traits]:
    """The traits of every backend that can be imported, by name."""
    known = {}
    for name in BACKENDS:
        try:
            known[name] = traits_of(name)
        except ConfigError:
            continue  # a broken plug-in, which doctor reports
    return known
