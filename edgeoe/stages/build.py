"""build: ONNX graph -> artifact for one target."""

from __future__ import annotations

from edgeoe.backends import backend_of
from edgeoe.backends.admission import require_admitted
from edgeoe.errors import BackendError
from edgeoe.files import file_sha256
from edgeoe.machine.environment import environment
from edgeoe.progress import Progress, silent
from edgeoe.records.measurement import Artifact
from edgeoe.run.directory import Run, writes_run
from edgeoe.run.layout import TargetFiles
from edgeoe.stages.precisions import graph_for
from edgeoe.targets.backends import runs_on
from edgeoe.targets.here import bundle_command, differences, is_of_every_machine
from edgeoe.targets.limits import require_buildable
from edgeoe.targets.profile import Target

__all__ = ["build", "require_runtime"]


@writes_run
def build(run: Run, target: Target, *, progress: Progress = silent) -> Artifact:
    """Build the artifact for `target` from the run's graph, and check that it loads and runs.

    Raises TargetError if the profile has unsupported settings, RunError if its graph was not exported, BackendError if
    only the device can build, or the graph is a program that this machine does not vouch for.
    """
    require_buildable(target)
    require_runtime(run, target)
    graph = graph_for(run, target)
    require_admitted(graph)
    backend = backend_of(target)
    files = TargetFiles(target.name)
    run.forget(files.validation, files.result, files.engine)
    file = files.artifact(f"model{backend.traits.suffix}")
    path = run.place(file)
    settings = backend.build(graph, target, path, progress=progress)
    for one in sorted(path.parent.glob(f"{path.name}*")):
        run.note(files.artifact(one.name))
    artifact = Artifact(
        artifact=file.name,
        sha256=file_sha256(path),
        size_bytes=path.stat().st_size,
        backend=target.backend,
        versions=backend.versions(),
        target=target.name,
        precision=target.precision,
        graph_sha256=file_sha256(graph),
        settings=settings,
    )
    run.save(files.engine, artifact)
    return artifact


def require_runtime(run: Run, target: Target) -> None:
    """Raise BackendError, with advice, unless artifacts for `target` can be built and run on this machine."""
    backend = backend_of(target)
    differs = differences(target, environment())
    reason = "a plan is built on the device that runs it" if differs and not backend.traits.portable else ""
    if not reason:
        try:
            backend.check(target)
        except BackendError as missing:
            if not differs and (runs_on(target) == "cpu" or not is_of_every_machine(target)):
                raise
            if not differs:
                raise BackendError(
                    f"{str(missing).rstrip('.')}; if the device is another machine, say so in [device] of "
                    f"{target.name} (machine, board_model, cpu, gpu), and edgeoe bundle or deploy take it there."
                ) from None
            reason = str(missing).rstrip(".")
    if reason:
        problem = f"target {target.name}: not built here: {'; '.join(differs)}; {reason}."
        raise BackendError(f"{problem} Take it to the device: {bundle_command(run.path, target.name)}")
