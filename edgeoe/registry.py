"""Tables of interchangeable parts: a name and an import path, imported when the part is requested."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeoe.errors import ConfigError, first_line, pass_on_out_of_memory

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "BACKENDS",
    "METHODS",
    "PAGES",
    "PRECISIONS",
    "QUANTITIES",
    "REPORT_FORMATS",
    "Plugin",
    "Table",
    "nearest",
]


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggestion for an unknown `name`: its closest match in `known`, or all of them."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


@dataclass(frozen=True, slots=True)
class Plugin:
    """A row that an installed distribution adds to a table.

    name: what users call the part.
    at: "module:attribute".
    distribution: name and version of the distribution, for messages.
    """

    name: str
    at: str
    distribution: str


class Table(Mapping[str, str]):
    """Mapping from the names of interchangeable parts to their import paths, "module:attribute".

    The rows of edgeoe come first; installed distributions may add rows by entry points, which are read when a name is
    not built in, or when all names are requested.
    kind: what a part is, for messages.
    rows: the built-in rows.
    group: entry point group, as in a pyproject.toml: [project.entry-points."edgeoe.methods"].
    """

    def __init__(self, kind: str, rows: Mapping[str, str], *, group: str) -> None:
        self.kind, self.group = kind, group
        self.built_in = MappingProxyType(dict(rows))

    def __getitem__(self, name: str) -> str:
        return self.built_in[name] if name in self.built_in else self._usable()[name].at

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self._usable()

    def __len__(self) -> int:
        return len(self.built_in) + len(self._usable())

    def load(self, name: str) -> Any:
        """Import the part called `name`.

        Raises ConfigError for an unknown name, for a name that two distributions claim, and for a plugin that can't be
        imported.
        """
        if name not in self.built_in and name not in self._usable():
            clash = next((clash for other, clash in self._clashes() if other == name), "")
            raise ConfigError(clash or f"unknown {self.kind} {name!r}. {nearest(name, self)}")
        return self.load_part(name, self[name])

    def load_part(self, name: str, at: str) -> Any:
        """What lies at `at`, "module:attribute", of the part called `name`.

        Raises ConfigError, with the distribution, if that can't be imported and is not edgeoe's own.
        """
        module, _, attribute = at.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except Exception as reason:
            pass_on_out_of_memory(reason)
            if name in self.built_in:
                raise
            what = f"{type(reason).__name__}: {first_line(reason)}"
            raise ConfigError(
                f"{self.kind} {name!r} of {self.distribution(name)} can't be imported from {at}: {what}. "
                "Repair or uninstall that distribution."
            ) from reason

    def problems(self) -> list[str]:
        """One line for each name that is claimed by more than one distribution, edgeoe included."""
        return [clash for _, clash in self._clashes()]

    def distribution(self, name: str) -> str:
        """The distribution that adds the part `name`; empty for a built-in part."""
        return "" if name in self.built_in else self._usable()[name].distribution

    def _plugins(self) -> tuple[Plugin, ...]:
        return _installed(self.group, tuple(sys.path))

    def _usable(self) -> dict[str, Plugin]:
        claimed = {name for name, _ in self._clashes()}
        return {plugin.name: plugin for plugin in self._plugins() if plugin.name not in claimed}

    def _clashes(self) -> Iterator[tuple[str, str]]:
        claims: dict[str, list[str]] = {name: ["edgeoe"] for name in self.built_in}
        for plugin in self._plugins():
            claims.setdefault(plugin.name, []).append(plugin.distribution)
        for name, owners in claims.items():
            if len(owners) > 1:
                built_in = f" The one of edgeoe is used: rename or uninstall {' and '.join(owners[1:])}."
                remedy = built_in if name in self.built_in else " Uninstall all but one of them."
                yield name, f"{self.kind} {name!r} is claimed by {' and '.join(owners)}.{remedy}"


@lru_cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[Plugin, ...]:  # noqa: ARG001 - the cache's key
    """The entry points of `group` in the distributions on `path`, which is sys.path."""
    from importlib.metadata import entry_points

    plugins = {_plugin(point) for point in entry_points(group=group)}  # a set, as a path may be listed twice
    return tuple(sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution)))


def _plugin(point: EntryPoint) -> Plugin:
    dist = point.dist
    return Plugin(point.name, point.value, f"{dist.name} {dist.version}" if dist else "an unknown distribution")


METHODS = Table(
    "method",
    {
        "kd": "edgeoe.methods.named:KD",
        "fskd": "edgeoe.methods.named:FSKD",
        "cd": "edgeoe.methods.named:CD",
        "mir": "edgeoe.methods.named:MIR",
        "practise": "edgeoe.methods.named:PRACTISE",
        "none": "edgeoe.methods.named:NONE",
    },
    group="edgeoe.methods",
)
BACKENDS = Table(
    "backend",
    {
        "onnxruntime": "edgeoe.backends.onnxruntime:OnnxRuntime",
        "openvino": "edgeoe.backends.openvino:OpenVino",
        "tensorrt": "edgeoe.backends.tensorrt:TensorRT",
    },
    group="edgeoe.backends",
)
PRECISIONS = Table(
    "precision",
    {
        "fp32": "edgeoe.graph.precisions:FP32",
        "fp16": "edgeoe.graph.precisions:FP16",
        "int8": "edgeoe.graph.precisions:INT8",
    },
    group="edgeoe.precisions",
)
QUANTITIES = Table(
    "quantity",
    {
        "p50_ms": "edgeoe.measure.quantities:P50_MS",
        "p90_ms": "edgeoe.measure.quantities:P90_MS",
        "p99_ms": "edgeoe.measure.quantities:P99_MS",
        "throughput_ips": "edgeoe.measure.quantities:THROUGHPUT_IPS",
        "peak_memory_mb": "edgeoe.measure.quantities:PEAK_MEMORY_MB",
        "size_mb": "edgeoe.measure.quantities:SIZE_MB",
        "max_drop": "edgeoe.measure.quantities:MAX_DROP",
        "top1": "edgeoe.measure.quantities:TOP1",
        "mean_recall": "edgeoe.measure.quantities:MEAN_RECALL",
        "rare_recall": "edgeoe.measure.quantities:RARE_RECALL",
        "worst_recall": "edgeoe.measure.quantities:WORST_RECALL",
    },
    group="edgeoe.quantities",
)
REPORT_FORMATS = Table(
    "report format",
    {
        "junit": "edgeoe.report.junit:JUnit",
        "markdown": "edgeoe.report.markdown:Markdown",
        "github": "edgeoe.report.github:GitHub",
        "json": "edgeoe.report.json:Json",
    },
    group="edgeoe.report_formats",
)
PAGES = Table(
    "page",
    {"run": "edgeoe.report.notebook:page_of_run", "validation": "edgeoe.report.notebook:page_of_validation"},
    group="edgeoe.pages",
)
