"""The traits of a backend: the facts about a runtime that need no import of it. Needs only the standard library."""

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
    """The facts about a backend.

    title: name of its runtime in reports.
    requirement: the pip requirement of the runtime; empty if it needs only numpy.
    extra: the extra of edgeoe that installs the runtime; empty for a backend of another distribution.
    modules: top-level modules of the runtime.
    suffix: of the file names of its artifacts.
    portable: whether an artifact may be built on another machine than the device.
    processor: target -> processor that runs it: a CPU, an NVIDIA GPU (or its DLA), or another.
    int8_recipe: target -> recipe of the int8 graphs that it computes fast; see graph/quantize.py.
    describe: describes the runtime on this machine. Raises BackendError or ModuleNotFoundError if it is missing.
    tables: the tables of a profile that it reads, of "runtime" and "engine".
    options: dataclass of the table named after the backend; None without such a table.
    providers: valid values of `provider` in [runtime]; empty if the backend has no choice of provider.
    units: valid values of `unit` in [runtime], by provider ("cpu" if there is no choice of provider).
    single_thread: target -> whether the calling thread does all the work if threads = 1.
    issues: target -> settings that this backend does not support.
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
    """The processor that runs `target`: a CPU, an NVIDIA GPU (or its DLA), or another."""
    return traits_of(target.backend).processor(target)


def known_backends() -> dict[str, Traits]:
    """The traits of every backend that can be imported, by name."""
    backends = {}
    for name in BACKENDS:
        try:
            backends[name] = traits_of(name)
        except ConfigError:
            continue  # a broken plug-in, which doctor reports
    return backends
