"""One architecture through every stage, in a process of its own.

Each generator yields the stage that comes next, with the facts known by then.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, thread_time_ns
from typing import Any

from architecture_families import Model

KEEP, CLASSES = 0.7, 10
Facts = dict[str, Any]


class StageError(Exception):
    """A stage did not do what it should."""


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
    run.save_tensors(layout.PROBE, golden=pixels)
    run.save_tensors(layout.CALIBRATION, pixels=pixels[:1], others=pixels[:1])
    save_student(run, pruned, TeacherSource.parse(f"{model.source}:{model.name}"), outputs=CLASSES, x=x)
    if not torch.equal(logits_of(load_student(run), x), logits):
        raise StageError("rebuilt from student/, it does not answer the same to the bit")
    yield {"stage": "export"}
    record = export(run)
    yield {
        "stage": "measure",
        "exporter": record.exporter,
        "max_rel_error": f"{record.max_rel_error:.1e}",
        "reason": notes.getvalue().strip(),
    }
    other = folder / "teacher.onnx"
    exporter: Any = record.exporter
    onnx.save(onnx_from_student(teacher, preprocess=preprocess, metadata={}, exporter=exporter), other)
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
    tried: list[tuple[float, Facts]] = []
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
        tried.append((abs(kept - KEEP), {"macs_kept": round(kept, 4), "params_kept": round(share, 4)}))
        if tried[-1][0] <= 0.02 * KEEP:
            break
        low, high = (ratio, high) if kept > KEEP else (low, ratio)
    if not tried:
        assert failure is not None  # noqa: S101 - every ratio failed
        raise failure
    best = min(tried, key=lambda pair: pair[0])[1]
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
    assert preprocess is not None  # noqa: S101 - both sources have one
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
    try:
        for facts in TASKS[tool](model, multiple, folder):
            say(facts)
    except PruningError as reason:
        say({"stage": "refused", "reason": line_of(reason)})
    except Exception as reason:
        say({"reason": line_of(reason).replace(f"{folder}/", "")})


def say(facts: Facts) -> None:
    print(json.dumps(facts), flush=True)


def line_of(reason: BaseException) -> str:
    from edgeoe.errors import EdgeoeError

    line = " ".join((str(reason).strip() or "no message").splitlines()[0].split())[:300]
    return line if isinstance(reason, (EdgeoeError, StageError)) else f"{type(reason).__name__}: {line}"
