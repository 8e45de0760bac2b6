"""The smallest member of every timm and torchvision family, with random weights, through the line: one CSV row each.

load -> inspect -> prune to 0.7 of the MACs -> forward -> rebuild from student/ -> export -> measure, where student and
teacher take turns in onnxruntime on one thread. `outcome` is "pass", "refused" (edgeoe said before any training that
nothing of it can be pruned) or the stage that failed. Each model runs in a process of its own, with a time limit; a
model that is in the CSV already is not run again. Which members are the smallest takes minutes to find and is kept in
families.json: {source: {family: [name, parameters]}}.

  tools/bench_architectures --quick                             # a handful of small ones: does it work at all?
  tools/bench_architectures --jobs 2                            # all
  tools/bench_architectures --baseline torch-pruning            # the same models pruned by torch-pruning alone
  tools/bench_architectures --channel-multiple 1                # not 8, as host-cpu has it; a CSV of its own
  tools/bench_architectures --only 'vision_transformer*'        # families, or names
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, thread_time_ns
from typing import Any

KEEP, CLASSES, MAX_PARAMS = 0.7, 10, 35_000_000
SOURCES = ("timm", "torchvision")
COLUMNS = (
    *("source", "family", "name", "params_m", "input", "outcome", "reason", "groups", "groups_refused"),
    *("macs_kept", "params_kept", "exporter", "max_rel_error", "spread"),
    *("p50_teacher_ms", "p50_student_ms", "speedup", "n", "inspect_seconds", "seconds"),
)
QUICK = {
    "timm": {"byobnet": "test_byobnet", "convnext": "test_convnext", "vision_transformer": "test_vit"},
    "torchvision": {"shufflenetv2": "shufflenet_v2_x0_5", "squeezenet": "squeezenet1_1"},
}
Facts = dict[str, Any]


@dataclass(frozen=True)
class Model:
    source: str
    family: str
    name: str


class StageError(Exception):
    """A stage did not do what it should."""


# The smallest of each family


def smallest(source: str) -> dict[str, tuple[str, int]]:
    """Family -> name and number of parameters of its smallest member."""
    found: dict[str, tuple[str, int]] = {}
    for family, name, count in {"timm": timm_members, "torchvision": torchvision_members}[source]():
        if family not in found or count < found[family][1]:
            found[family] = (name, count)
    return found


def timm_members() -> Iterator[tuple[str, str, int]]:
    import timm
    import torch

    for family in timm.list_modules():
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    model = timm.create_model(name)
            except Exception as reason:
                print(f"{name} can't be made on the meta device: {line_of(reason)}", flush=True)
                continue
            yield family, name, sum(parameter.numel() for parameter in model.parameters())


def torchvision_members() -> Iterator[tuple[str, str, int]]:
    from torchvision import models

    for name in models.list_models(module=models):
        family = models.get_model_builder(name).__module__.rpartition(".")[2]
        yield family, name, models.get_model_weights(name).DEFAULT.meta["num_params"]


def read_families(path: Path) -> dict[str, dict[str, tuple[str, int]]]:
    """What `path` holds, and the families of a source that it lacks, which are found and added to it."""
    families = json.loads(path.read_text()) if path.exists() else {}
    for source in SOURCES:
        if source not in families:
            print(f"looking for the smallest member of each family of {source}", flush=True)
            families[source] = smallest(source)
            path.write_text(json.dumps(families, indent=1) + "\n")
    return families


def is_wanted(source: str, size: int) -> bool:
    return source != "timm" or size <= MAX_PARAMS


# One model, in its own process: each generator yields the stage that comes next, and what is known by then


def whole_line(model: Model, multiple: int, folder: Path) -> Iterator[Facts]:
    """edgeoe, from the teacher to the student's speed. folder: an empty one for what is written on the way."""
    import onnx
    import torch

    from edgeoe.graph.export import check_parity, onnx_from_student
    from edgeoe.models.checkpoint import load_student, save_student
    from edgeoe.models.teacher import TeacherSource
    from edgeoe.pruning.groups import narrow_groups
    from edgeoe.pruning.prune import prune_channels
    from edgeoe.pruning.verify import prunable_groups
    from edgeoe.run import layout
    from edgeoe.run.directory import Run
    from edgeoe.run.facts import RunFacts
    from edgeoe.stages.export import export

    notes = io.StringIO()
    logging.getLogger("edgeoe").addHandler(logging.StreamHandler(notes))
    yield {"stage": "load"}
    teacher, preprocess, facts = load(model)
    shape = preprocess.shape
    pixels = pictures(4, shape)
    images = preprocess.normalise(pixels)
    x = torch.from_numpy(images)
    yield {"stage": "inspect", **facts, "spread": spread(logits_of(teacher, x))}
    start = perf_counter()
    groups = prunable_groups(teacher, shape=shape)
    yield {
        "stage": "prune",
        "groups": len(groups),
        "groups_refused": sum(bool(group.refused) for group in groups),
        "inspect_seconds": round(perf_counter() - start, 1),
    }
    pruned = prune_channels(
        teacher,
        shape=shape,
        keep=KEEP,
        channel_multiple=multiple,
        below_multiple=True,
        groups=narrow_groups(groups),
    )
    student = pruned.model.eval()
    yield {
        "stage": "forward",
        "macs_kept": round(pruned.macs_kept, 4),
        "params_kept": round(pruned.params_kept, 4),
    }
    logits = logits_of(student, x)
    yield {"stage": "rebuild"}
    run = Run(folder)
    classes = tuple(f"class{k}" for k in range(CLASSES))
    run.save(layout.FACTS, RunFacts(classes=classes, counts=(1,) * CLASSES, preprocess=preprocess))
    run.save_tensors(layout.PROBE, pixels=pixels)
    save_student(run, pruned, TeacherSource.parse(f"{model.source}:{model.name}"), outputs=CLASSES, x=x)
    if not torch.equal(logits_of(load_student(run), x), logits):
        raise StageError("made anew from student/, it does not answer the same to the bit")
    yield {"stage": "export"}
    record = export(run)
    yield {
        "stage": "measure",
        "exporter": record.exporter,
        "max_rel_error": f"{record.max_rel_error:.1e}",
        "reason": notes.getvalue().strip(),
    }
    other = folder / "teacher.onnx"
    onnx.save(onnx_from_student(teacher, preprocess=preprocess, metadata={}, exporter=record.exporter), other)
    check_parity(other, teacher, images, precision="fp32")
    yield {"stage": "pass", **speed(other, folder / record.path, images[:1])}


def torch_pruning(model: Model, multiple: int, folder: Path) -> Iterator[Facts]:  # noqa: ARG001 - as `whole_line`
    """torch-pruning with its defaults and the head left alone, at the ratio that comes nearest to the same MACs."""
    import torch
    import torch_pruning as tp

    from edgeoe.pruning.prune import count_macs, count_params

    yield {"stage": "load"}
    teacher, preprocess, facts = load(model)
    x = torch.from_numpy(preprocess.normalise(pictures(2, preprocess.shape)))
    yield {"stage": "prune", **facts, "spread": spread(logits_of(teacher, x))}
    whole = count_macs(teacher, preprocess.shape)
    low, high = 0.0, 0.5
    found: list[tuple[float, Facts]] = []
    failure: Exception | None = None
    for _ in range(8):
        ratio = (low + high) / 2
        student = copy.deepcopy(teacher).requires_grad_(True)
        try:
            tp.pruner.BasePruner(
                student,
                x[:1],
                importance=tp.importance.GroupMagnitudeImportance(),
                pruning_ratio=ratio,
                ignored_layers=heads(student),
                round_to=multiple if multiple > 1 else None,
            ).step()
            logits_of(student, x)
            kept = count_macs(student, preprocess.shape) / whole
        except Exception as reason:  # another ratio, nearer to the one that squares to the MACs, may do
            failure = failure or reason
            low, high = (low, ratio) if ratio > 1 - KEEP**0.5 else (ratio, high)
            continue
        share = count_params(student) / count_params(teacher)
        found.append((abs(kept - KEEP), {"macs_kept": round(kept, 4), "params_kept": round(share, 4)}))
        if found[-1][0] <= 0.02 * KEEP:
            break
        low, high = (ratio, high) if kept > KEEP else (low, ratio)
    if not found:
        assert failure is not None  # noqa: S101 - what else keeps it from being found
        raise failure
    best = min(found, key=lambda pair: pair[0])[1]
    yield {"stage": "macs", **best}
    if best["macs_kept"] > 0.75:
        raise StageError(f"keeps {best['macs_kept']:.2f} of the MACs at least")
    yield {"stage": "pass"}


def load(model: Model) -> tuple[Any, Any, Facts]:
    """The teacher with random weights that all matter, its preprocessing, and what the CSV tells of it."""
    import torch

    from edgeoe.models.teacher import TeacherSource
    from edgeoe.pruning.prune import count_params

    torch.manual_seed(0)
    source = TeacherSource.parse(f"{model.source}:{model.name}")
    teacher = source.build(CLASSES).eval().requires_grad_(False)
    preprocess = source.preprocess(teacher)
    enliven(teacher)
    settle(teacher, torch.from_numpy(preprocess.normalise(pictures(8, preprocess.shape))))
    size = "x".join(map(str, preprocess.shape))
    return teacher, preprocess, {"params_m": round(count_params(teacher) / 1e6, 2), "input": size}


def enliven(model: Any) -> None:
    """Randomise, in place, tensors of one value: freshly initialised networks zero whole branches with them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            noise = torch.rand(tensor.shape, generator=generator)
            scales = bool(tensor.any()) or (tensor.dim() == 1 and name.endswith("weight"))
            tensor.copy_(0.5 + noise if scales else 0.1 * (noise - 0.5))


def settle(model: Any, x: Any) -> None:
    """Give batch norms, in place, the statistics of `x`: with made-up ones, what a deep network sees fades away."""
    import torch

    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def pictures(n: int, shape: tuple[int, int, int]) -> Any:
    """(n, C, H, W) uint8: coarse patches of random colours under noise, so that no two are alike to a network."""
    import numpy as np

    rng = np.random.default_rng(0)
    channels, height, width = shape
    coarse = rng.integers(0, 200, (n, channels, 4, 4))
    patches = coarse[:, :, np.arange(height)[:, None] * 4 // height, np.arange(width) * 4 // width]
    return (patches + rng.integers(0, 56, (n, *shape))).astype(np.uint8)


def logits_of(model: Any, x: Any) -> Any:
    """(n, CLASSES) of (n, C, H, W). Raises StageError if they are something else."""
    import torch

    with torch.no_grad():
        logits = model(x)
    if logits.shape != (len(x), CLASSES):
        raise StageError(f"answers {len(x)} images with {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise StageError("answers no finite numbers")
    return logits


def spread(logits: Any) -> str:
    """How different the answers are, as a share of the largest: parity on equal answers would say little."""
    return f"{float((logits - logits.mean(0)).abs().max() / logits.abs().max()):.1e}"


def heads(model: Any) -> list[Any]:
    """The layers that make the logits: what the model itself says, else the last that makes as many."""
    from torch import nn

    own = model.get_classifier() if hasattr(model, "get_classifier") else None
    named = [own] if isinstance(own, nn.Module) else list(own or [])
    layers = [module for part in named for module in part.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    makers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return layers or [m for m in makers if getattr(m, "out_features", getattr(m, "out_channels", 0)) == CLASSES][-1:]


def speed(teacher: Path, student: Path, x: Any, *, rounds: int = 200, seconds: float = 4.0, calls: int = 3) -> Facts:
    """Median milliseconds of two graphs that take turns, and the median over rounds of their ratio.

    They run in this thread alone, so its processor time is what a call takes on an idle machine: on a busy one, the
    longer a call, the likelier it is to be interrupted, and time on the wall would flatter students.
    """
    from edgeoe.backends.onnxruntime import OnnxRuntime
    from edgeoe.targets.load import load_target

    target, backend = load_target("host-cpu"), OnnxRuntime()

    def turn(runner: Any) -> float:
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


TASKS: dict[str, Callable[[Model, int, Path], Iterator[Facts]]] = {"edgeoe": whole_line, "torch-pruning": torch_pruning}


def work(tool: str, model: Model, multiple: int, folder: Path) -> None:
    """Take one model through, and print a line of JSON for each stage that is reached."""
    import torch

    from edgeoe.errors import PruningError

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    say = lambda facts: print(json.dumps(facts), flush=True)  # noqa: E731
    try:
        for facts in TASKS[tool](model, multiple, folder):
            say(facts)
    except PruningError as reason:
        say({"stage": "refused", "reason": line_of(reason)})
    except Exception as reason:
        say({"reason": line_of(reason).replace(f"{folder}/", "")})


def line_of(reason: BaseException) -> str:
    from edgeoe.errors import EdgeoeError

    line = " ".join((str(reason).strip() or "no message").splitlines()[0].split())[:300]
    return line if isinstance(reason, (EdgeoeError, StageError)) else f"{type(reason).__name__}: {line}"


# All models


def run(tool: str, model: Model, *, multiple: int, limit: float, folder: Path) -> Facts:
    """The row of one model: what its process said, up to where it came."""
    command = [sys.executable, __file__, "--channel-multiple", str(multiple), "--work", tool, *asdict(model).values()]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start, stopped = perf_counter(), ""
    with TemporaryDirectory(dir=folder) as place:
        try:
            done = subprocess.run([*command, place], capture_output=True, timeout=limit, env=alone)
            said = done.stdout
            if done.returncode:
                last = (done.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1][:200]
                stopped = f"exit code {done.returncode}: {last}"
        except subprocess.TimeoutExpired as late:
            said, stopped = late.stdout or b"", f"stopped after {limit:g} s"
    facts: Facts = {"stage": "start"}
    for line in said.decode(errors="replace").splitlines():
        if line.startswith('{"'):
            facts |= json.loads(line)
    facts |= {"outcome": facts["stage"], "seconds": round(perf_counter() - start, 1), **asdict(model)}
    if stopped:
        facts["reason"] = stopped
    return {column: facts.get(column, "") for column in COLUMNS}


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: Facts) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def summary(tables: dict[str, list[dict[str, str]]], left_out: list[str]) -> str:
    """Markdown: pass rates, speed, refusals, failures, and a line for each model. tables: rows of each tool."""
    lines = ["| tool | source | models | pass | refused | failed | pass rate |", "|---|---|---|---|---|---|---|"]
    for tool, rows in tables.items():
        for source in SOURCES:
            own = [row["outcome"] for row in rows if row["source"] == source]
            if own:
                count = Counter(outcome if outcome in ("pass", "refused") else "failed" for outcome in own)
                figures = " | ".join(str(count[key]) for key in ("pass", "refused", "failed"))
                lines.append(f"| {tool} | {source} | {len(own)} | {figures} | {100 * count['pass'] / len(own):.0f} % |")
    if left_out:
        lines += ["", f"Left out, over {MAX_PARAMS / 1e6:g} M parameters: {', '.join(left_out)}."]
    for tool, rows in tables.items():
        gains = [float(row["speedup"]) for row in rows if row["speedup"]]
        if gains:
            lines += [
                "",
                f"{tool}: {sum(gain > 1 for gain in gains)} of {len(gains)} students are faster than their teachers; "
                f"speed-up at {KEEP:g} of the MACs: median {statistics.median(gains):.2f}, {min(gains):.2f} to "
                f"{max(gains):.2f}.",
            ]
    for tool, rows in tables.items():
        for title, chosen in (
            ("refused", [row for row in rows if row["outcome"] == "refused"]),
            ("failed", [row for row in rows if row["outcome"] not in ("pass", "refused")]),
            ("passed, with a remark", [row for row in rows if row["outcome"] == "pass" and row["reason"]]),
        ):
            if chosen:
                lines += ["", f"{tool}, {title}:", ""]
                lines += [
                    f"- {row['source']} {row['family']} ({row['name']}), {row['outcome']}: {row['reason']}"
                    for row in chosen
                ]
    alike = [
        row["name"] for tool, rows in tables.items() for row in rows if row["spread"] and float(row["spread"]) < 1e-3
    ]
    if alike:
        names = ", ".join(dict.fromkeys(alike))
        lines += ["", f"Answer all images nearly alike (spread under 1e-3), so that parity says little: {names}."]
    baseline = [row for tool, rows in tables.items() if tool.startswith("torch-pruning") for row in rows]
    other = {(row["source"], row["name"]): row["outcome"] for row in baseline}
    shown = ("source", "family", "name", "params_m", "outcome", "macs_kept", "params_kept", "exporter")
    shown += ("max_rel_error", "p50_teacher_ms", "p50_student_ms", "speedup", "n", "seconds")
    for tool, rows in tables.items():
        if tool.startswith("edgeoe"):
            lines += ["", f"| {' | '.join(shown)} | torch-pruning |", f"|{'---|' * (len(shown) + 1)}"]
            for row in sorted(rows, key=lambda row: (row["source"], row["family"])):
                cells = [*(row[column] for column in shown), other.get((row["source"], row["name"]), "")]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-architectures"))
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=SOURCES)
    parser.add_argument("--only", metavar="GLOB", default="*", help="families or names")
    parser.add_argument("--baseline", choices=["torch-pruning"], help="run this instead of edgeoe")
    parser.add_argument(
        "--channel-multiple", type=int, default=8, help="widths stay at multiples of it where the MACs can be met so"
    )
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, one thread each")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one model")
    parser.add_argument("--quick", action="store_true", help="a handful of small models")
    parser.add_argument(
        "--work", nargs=5, metavar=("TOOL", "SOURCE", "FAMILY", "NAME", "FOLDER"), help="one model alone"
    )
    options = parser.parse_args()
    if options.quick:
        options.out = options.out / "quick"
    return options


def main() -> None:
    options = parse()
    if options.work:
        tool, source, family, name, folder = options.work
        work(tool, Model(source, family, name), options.channel_multiple, Path(folder))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.quick:
        families = {source: {f: (name, 0) for f, name in own.items()} for source, own in QUICK.items()}
    else:
        families = read_families(options.out / "families.json")
    tool, multiple = options.baseline or "edgeoe", options.channel_multiple
    path = options.out / f"{tool}-by-{multiple}.csv"
    done = {(row["source"], row["name"]) for row in read_rows(path)}
    todo = [
        Model(source, family, name)
        for source in options.sources
        for family, (name, size) in families[source].items()
        if is_wanted(source, size) and (source, name) not in done
        if fnmatch(family, options.only) or fnmatch(name, options.only)
    ]
    print(f"{path.stem}: {len(todo)} models to run, {len(done)} there; {options.jobs} at a time", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        coming = [
            pool.submit(run, tool, model, multiple=multiple, limit=options.limit, folder=options.out) for model in todo
        ]
        for future in as_completed(coming):
            row = future.result()
            append(path, row)
            facts = [f"{key} {row[key]}" for key in ("macs_kept", "exporter", "speedup", "seconds") if row[key]]
            print(f"{row['source']}:{row['name']}  {row['outcome']}  {'  '.join(facts)}  {row['reason']}", flush=True)
    tables = {file.stem: read_rows(file) for file in sorted(options.out.glob("*.csv"))}
    left_out = [f"{s} {f}" for s, own in families.items() for f, (_, size) in own.items() if not is_wanted(s, size)]
    text = summary(tables, left_out)
    (options.out / "summary.md").write_text(text)
    print(f"\n{text}\n{path}, summary.md beside it")


if __name__ == "__main__":
    main()
