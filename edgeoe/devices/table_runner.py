"""The runner of a latency table's bundle on a device: build and time each variant, and write the table.

It needs Python, numpy and the target's runtime; the bundle contains the modules of edgeoe that it imports.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeoe.backends import Backend, Runner, backend_of
from edgeoe.devices.unpacked import lines, read_facts, run_program
from edgeoe.errors import BackendError, RunError, quoted
from edgeoe.files import new_parents
from edgeoe.machine.environment import environment
from edgeoe.machine.fingerprint import differing
from edgeoe.measure.affinity import loaded_on_cores
from edgeoe.measure.latency_table import complete_table, read_table, write_table
from edgeoe.progress import Progress
from edgeoe.records.latency_table import FORMAT, FP32_TEACHER, TEACHER, LatencyTable, TableFacts
from edgeoe.targets.here import differences, not_measured
from edgeoe.targets.profile import Target

__all__ = ["main", "run_table"]

_INTERRUPTED = "interrupted: what was measured so far is kept; start again to go on."


def run_table(bundle: Path, out: Path, *, progress: Progress) -> LatencyTable:
    """Measure the latency table of an unpacked bundle, and write it to `out`.

    What is measured goes to `partial_file(out)` at once, from where an interrupted table goes on.

    bundle: its folder.
    out: path of the table. Only an earlier table is overwritten.
    Raises RunError if a file of the bundle was changed or `out` holds anything else, BackendError if this machine is
    not the device, or its runtime is missing or refuses a graph.
    """
    facts = read_facts(TableFacts, bundle, format=FORMAT)
    partial = partial_file(out)
    _earlier(out)
    earlier = _earlier(partial)
    target = facts.target
    backend = backend_of(target)
    machine = environment()
    if differs := differences(target, machine):
        raise BackendError(f"{not_measured(differs)}. A latency table is measured on the device itself.")
    backend.check(target)
    facts_here = {**machine, "versions": backend.versions()}
    table = LatencyTable(network=facts.network, target=target, environment=facts_here, kept_fp32=facts.kept_fp32)
    if earlier is not None and _continues(earlier, table):
        table = replace(table, latencies_ms=earlier.latencies_ms)
    with new_parents(out), TemporaryDirectory() as folder:
        table = complete_table(
            table,
            facts.graphs,
            lambda name: _opened(bundle / facts.graphs[name], _target_of(name, target), backend, Path(folder)),
            shape=facts.shape,
            keep=lambda measured: write_table(partial, measured),
            progress=progress,
        )
        write_table(out, table)
    partial.unlink(missing_ok=True)
    return table


def partial_file(out: Path) -> Path:
    """Where the table at `out` is kept until it is complete."""
    return out.with_name(f"{out.name}.partial")


def _earlier(path: Path) -> LatencyTable | None:
    """The table that an earlier run wrote to `path`; None without one. Raises RunError if it holds anything else."""
    if not path.exists():
        return None
    try:
        return read_table(path)
    except RunError:
        raise RunError(f"{path}: exists and is no latency table of this version. Choose another --out.") from None


def _continues(earlier: LatencyTable, table: LatencyTable) -> bool:
    """Whether what was measured in `earlier` is of the same network on the same machine as it is now."""
    same = (earlier.network, earlier.target, earlier.kept_fp32) == (table.network, table.target, table.kept_fp32)
    return same and not differing(earlier.environment, table.environment)


def _target_of(variant: str, target: Target) -> Target:
    return replace(target, precision="fp32") if variant == FP32_TEACHER else target


@contextmanager
def _opened(graph: Path, target: Target, backend: Backend, folder: Path) -> Iterator[Runner]:
    """A context that builds and loads `graph`, a file compressed by gzip. Its files lie in `folder` meanwhile."""
    with TemporaryDirectory(dir=folder) as place:
        plain, artifact = Path(place, "graph.onnx"), Path(place, f"model{backend.traits.suffix}")
        plain.write_bytes(gzip.decompress(graph.read_bytes()))
        backend.build(plain, target, artifact)
        plain.unlink()
        with loaded_on_cores(backend, artifact, target) as runner:
            yield runner


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python3 run.py`: returns 0 if a table was written, 130 if interrupted, otherwise 2."""
    return run_program(
        lambda bundle, out: _summary(run_table(bundle, out, progress=lines), out),
        about="Measure a latency table on this device.",
        out="table.json",
        arguments=arguments,
        interrupted=_INTERRUPTED,
    )


def _summary(table: LatencyTable, out: Path) -> str:
    target, latencies_ms = table.target, table.latencies_ms
    return (
        f"{target.name}: {len(latencies_ms)} networks; the teacher takes {latencies_ms[TEACHER]:.3f} ms in "
        f"{target.precision}, {latencies_ms[FP32_TEACHER]:.3f} ms in fp32\n"
        f"{out}: copy it back, then: edgeoe collect {quoted(out.name)}"
    )
