"""One network through the whole line, in two processes: what the second builds on is rebuilt from the run's files.

The stages are commands of edgeoe, called as the command line calls them. Facts go to facts.jsonl in the folder of the
task, a line of JSON each: the stage that begins, what is known after it, and how it ended.
"""

from __future__ import annotations

import io
import json
import logging
import resource
import shutil
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, thread_time_ns
from typing import Any

import numpy as np
import onnx
import torch
from architecture_baseline import torch_pruning
from architecture_networks import Task
from architecture_teacher import StageError, build_teacher, logits_of, pictures, spread
from PIL import Image
from safetensors.torch import save_file

from edgeoe.backends import Runner
from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.cli.app import run as edgeoe
from edgeoe.data.listing import list_images
from edgeoe.data.pool import load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import EdgeoeError, ExportError, first_line
from edgeoe.graph.export import Exporter, onnx_from_student
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.pipeline import export
from edgeoe.pruning.prune import count_params
from edgeoe.pruning.savings import macs_by_module, own_macs
from edgeoe.records.graphs import ExportRecord
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.settings import Weights
from edgeoe.stages.precisions import variant_for
from edgeoe.targets.load import load_target

KEEP, STEPS, BATCH = 0.7, 3, 4
SAMPLES, POOL = 12, 40  # pictures with a label, and without
FACTS = "facts.jsonl"
_RUN, _WEIGHTS = "run", "weights.safetensors"
_PROFILE = """\
backend = "onnxruntime"
precision = "{precision}"

[measure]
processes = 2
warmup_seconds = 0
warmup_max_seconds = 0
min_seconds = 0.1
min_iterations = 10
max_variation = 1e6
max_foreign_load = 1e6
"""
Facts = dict[str, Any]


@dataclass
class _EndedError(Exception):
    """A command of edgeoe ended with another exit code than 0."""

    code: int
    message: str


def compressing(task: Task) -> Iterator[Facts]:
    """The first process, up to a run. Yields the stage that comes next, with the facts known by then."""
    yield {"stage": "prepare"}
    folder = task.folder
    for precision in ("fp32", "int8"):
        (folder / f"{precision}.toml").write_text(_PROFILE.format(precision=precision))
    facts, macs_of = _prepare(task)
    yield {"stage": "inspect", **facts}
    start = perf_counter()
    weights = str(folder / _WEIGHTS) if (folder / _WEIGHTS).exists() else "random"
    subject = ["--teacher", task.teacher, "--weights", weights, "--config", str(folder / "edgeoe.toml")]
    _command("inspect", *subject, "--classes", str(task.classes), "--json", str(folder / "inspect.json"))
    inspected = json.loads((folder / "inspect.json").read_text())
    groups = inspected["groups"]
    yield {
        "stage": "compress",
        "groups": len(groups),
        "groups_refused": sum(bool(group["refused"]) for group in groups),
        "prunable": round(_prunable(groups, macs_of), 3) if macs_of else "",
        "inspect_seconds": round(perf_counter() - start, 1),
    }
    remark, method = "", "mir"
    options = [*subject, "--samples", str(folder / "few"), "--ood", str(folder / "ood"), "--keep-macs", str(KEEP)]
    options += ["--steps", str(STEPS), "--batch", str(BATCH), "--target", str(folder / "fp32.toml")]
    options += ["--out", str(folder / _RUN), *(["--channel-multiple", str(task.multiple)] if task.multiple else [])]
    try:
        _command("compress", "--method", method, *options)
    except _EndedError as ended:
        if ended.code != 2 or "--method kd" not in ended.message:
            raise
        remark, method = f"mir: {ended.message}", "kd"  # the way out that the message names
        _command("compress", "--method", method, *options)
    record = Run(folder / _RUN).read(layout.COMPRESS)
    says = record.speed[0].outcome or record.speed[0].reason if record.speed else ""
    yield {
        "stage": "rebuild",
        "method": method,
        "macs_kept": round(record.macs_kept, 4),
        "params_kept": round(record.params_kept, 4),
        "edgeoe_says": says,
        "reason": " ".join(filter(None, [remark, *record.notes])),
    }


def delivering(task: Task) -> Iterator[Facts]:
    """The second process: from the run to its verdict, and the student's speed. Yields as `compressing` does."""
    folder, run = task.folder, Run(task.folder / _RUN)
    int8 = load_target(str(folder / "int8.toml"))
    yield {"stage": "export"}
    notes = io.StringIO()
    logging.getLogger("edgeoe").addHandler(logging.StreamHandler(notes))
    refused = ""
    try:
        record = export(run, precisions=("fp32", "int8"), variants=[variant_for(int8)])
    except ExportError as reason:
        if not run.has(layout.EXPORT) or not (record := run.read(layout.EXPORT)).refused:
            raise
        refused = str(reason)
    agreement = [graph.agreement for graph in record.graphs] + [graph.agreement for graph in record.refused]
    yield {
        "stage": "build",
        "exporter": record.exporter,
        "max_rel_error": f"{record.max_rel_error:.1e}",
        "int8_agreement": round(agreement[0], 3),
        "reason": "" if record.exporter == "dynamo" else notes.getvalue().strip(),
    }
    artifacts = ["fp32"] if refused else ["fp32", "int8"]
    for precision in artifacts:
        _command("build", str(run.path), "--target", str(folder / f"{precision}.toml"))
    yield {"stage": "validate"}
    _command("validate", str(run.path), "--target", str(folder / "fp32.toml"), "--test", str(folder / "few"))
    yield {"stage": "measure"}
    yield {"stage": "pass", **_speeds(task, run, record, None if refused else folder / _RUN / record.graphs[0].path)}


def _prepare(task: Task) -> tuple[Facts, dict[str, int]]:
    """Write weights that all matter, and pictures with what the teacher says of them as labels.

    Where the network can't be built or run, edgeoe is to say so: it gets random weights and labels.
    Returns facts of the teacher, and {module: its own MACs}.
    """
    folder, shape, labels = task.folder, task.shape or (3, 224, 224), np.arange(SAMPLES) % task.classes
    facts: Facts = {}
    macs_of: dict[str, int] = {}
    (folder / "ood").mkdir()
    (folder / "drawn").mkdir()
    _write_settings(task)
    try:
        with redirect_stdout(io.StringIO()):
            teacher, preprocess = build_teacher(task.teacher, task.preprocess, classes=task.classes)
            shape = preprocess.shape
            _write_pictures(folder / "drawn", SAMPLES, shape, seed=1)
            logits = _logits_of_files(teacher, folder / "drawn", preprocess)
            labels = logits.argmax(1)
            facts = {"input": "x".join(map(str, shape))}
            facts |= {"params_m": round(count_params(teacher) / 1e6, 2), "spread": spread(torch.from_numpy(logits))}
            tensors = {key: tensor.clone().contiguous() for key, tensor in teacher.state_dict().items()}
            save_file(tensors, folder / _WEIGHTS)
            macs_of = own_macs(macs_by_module(teacher, shape))
    except (Exception, SystemExit) as reason:
        facts["prepared"] = f"{type(reason).__name__}: {first_line(reason)}"
    if not (folder / "drawn" / "00.png").exists():
        _write_pictures(folder / "drawn", SAMPLES, shape, seed=1)
    _write_pictures(folder / "ood", POOL, shape, seed=2)
    for k in range(task.classes):
        (folder / "few" / f"class{k:04}").mkdir(parents=True)
    for number, label in enumerate(labels):
        shutil.move(folder / "drawn" / f"{number:02}.png", folder / "few" / f"class{label:04}")
    return facts, macs_of


def _write_settings(task: Task) -> None:
    given = task.preprocess
    lines = [f"{name} = {[*value]}" for name in ("size", "mean", "std") if (value := getattr(given, name))]
    (task.folder / "edgeoe.toml").write_text("\n".join(["[preprocess]", *lines, ""] if lines else [""]))


def _write_pictures(folder: Path, n: int, shape: tuple[int, int, int], *, seed: int) -> None:
    for number, pixels in enumerate(pictures(n, shape, seed=seed)):
        Image.fromarray(pixels[0] if shape[0] == 1 else pixels[:3].transpose(1, 2, 0)).save(folder / f"{number:02}.png")


def _logits_of_files(teacher: torch.nn.Module, folder: Path, preprocess: Preprocess) -> np.ndarray[Any, Any]:
    """(N, K) of the pictures in `folder`, in the order of their names."""
    rows = load_pool(list_images(folder), preprocess).images.rows(np.arange(SAMPLES))
    logits: np.ndarray[Any, Any] = logits_of(teacher, torch.from_numpy(preprocess.normalise(rows))).numpy()
    return logits


def _prunable(groups: Sequence[Facts], macs_of: dict[str, int]) -> float:
    """The share of the MACs that falls when groups are pruned: in their layers, and in products between those.

    groups: as `inspect --json` writes them.
    macs_of: {module: its own MACs}.
    """
    pruned = {name for group in groups if not group["refused"] for name in group["layers"]}
    touched = pruned | {name for group in groups if not group["refused"] for name in group["consumers"]}
    falls = [
        macs
        for name, macs in macs_of.items()
        if name in touched or (name not in {"", *touched} and any(layer.startswith(f"{name}.") for layer in pruned))
    ]
    return sum(falls) / max(1, sum(macs_of.values()))


def _command(*words: str) -> None:
    """Run a command of edgeoe. Raises _EndedError for any exit code but 0."""
    said = io.StringIO()
    with redirect_stderr(said):
        code = edgeoe([*words])
    sys.stderr.write(said.getvalue())
    if code:
        lines = [line for line in said.getvalue().splitlines() if line.startswith(("error: ", "bug in edgeoe: "))]
        raise _EndedError(code, lines[-1].removeprefix("error: ") if lines else f"{words[0]} ends with code {code}")


def _speeds(task: Task, run: Run, record: ExportRecord, int8: Path | None) -> Facts:
    """Speed of the student's graphs against its teacher's in fp32."""
    facts = run.read(layout.FACTS)
    graph = _teacher_graph(task, facts.preprocess, exporter="legacy" if record.exporter == "legacy" else "dynamo")
    x = facts.preprocess.normalise(pictures(1, facts.preprocess.shape, seed=3))
    figures = speed(graph, run.path / record.path, x)
    if int8 is not None:
        figures["speedup_int8"] = speed(graph, int8, x, seconds=1.5)["speedup"]
    return figures


def _teacher_graph(task: Task, preprocess: Preprocess, *, exporter: Exporter) -> Path:
    source, path, weights = TeacherSource.parse(task.teacher), task.folder / "teacher.onnx", task.folder / _WEIGHTS
    given: Weights = weights if weights.exists() else "random"
    teacher = load_teacher(source, given, classes=task.classes, channels=preprocess.shape[0])
    onnx.save(onnx_from_student(teacher, preprocess=preprocess, metadata={}, exporter=exporter), path)
    return path


def speed(
    teacher: Path,
    student: Path,
    x: np.ndarray[Any, Any],
    *,
    rounds: int = 150,
    seconds: float = 3.0,
    calls: int = 3,
) -> Facts:
    """Median milliseconds of two graphs that take turns, and the median over rounds of their ratio.

    They run in this thread alone, so its processor time is what a call takes on an idle machine: on a busy one, the
    longer a call, the likelier it is to be interrupted, and time on the wall would flatter students.
    """
    target, backend = load_target("host-cpu"), OnnxRuntime()

    def turn(runner: Runner) -> float:
        runner.infer(x)  # the first of a turn finds the caches full of the other network
        samples = []
        for _ in range(calls):
            before = thread_time_ns()
            runner.infer(x)
            samples.append((thread_time_ns() - before) / 1e6)
        return statistics.median(samples)

    with backend.open(teacher, target) as first, backend.open(student, target) as second:
        turns: list[tuple[float, float]] = []
        turn(first), turn(second)
        start = perf_counter()
        while len(turns) < rounds and (len(turns) < 3 or perf_counter() - start < seconds):
            turns.append((turn(first), turn(second)))
    return {
        "p50_teacher_ms": round(statistics.median(a for a, _ in turns), 4),
        "p50_student_ms": round(statistics.median(b for _, b in turns), 4),
        "speedup": round(statistics.median(a / b for a, b in turns), 4),
        "n": len(turns),
    }


PHASES: dict[str, tuple[Callable[[Task], Iterator[Facts]], ...]] = {
    "edgeoe": (compressing, delivering),
    "torch-pruning": (lambda task: torch_pruning(task, KEEP),),
}


def work(tool: str, phase: int, folder: Path) -> None:
    """Take the task in `folder` through one process of `tool`, and note its facts there."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with (folder / FACTS).open("a") as notes:

        def note(facts: Facts) -> None:
            print(json.dumps(facts), file=notes, flush=True)

        try:
            for facts in PHASES[tool][phase](Task.read(folder)):
                note({**facts, "peak_mb": _peak_mb()})
        except _EndedError as ended:
            note({"outcome": "refused" if ended.code == 2 else "failed", "reason": ended.message})
        except EdgeoeError as reason:
            note({"outcome": "refused", "reason": str(reason)})
        except Exception as reason:
            name = "" if isinstance(reason, StageError) else f"{type(reason).__name__}: "
            note({"outcome": "failed", "reason": f"{name}{first_line(reason)}"})
        note({"peak_mb": _peak_mb(), "cpu_seconds": _cpu_seconds()})


def _cpu_seconds() -> float:
    """Processor time of this process and of those that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(one.ru_utime + one.ru_stime for one in used), 1)


def _peak_mb() -> int:
    """Peak memory of this process or of one that it started, whichever had more, in 10^6 bytes."""
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(max(peaks) * 1024 / 1e6)
