"""What edgeoe is compared with on the same networks: torch-pruning alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from architecture_networks import Task
from architecture_teacher import StageError, build_teacher, logits_of, pictures, spread
from torch import nn

from edgeoe.pruning.prune import count_macs, count_params

Facts = dict[str, Any]
_LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)


def torch_pruning(task: Task, keep: float) -> Iterator[Facts]:
    """torch-pruning with its defaults and the head left alone, at the ratio that comes nearest to `keep` of the MACs.

    Yields the stage that comes next, with the facts known by then.
    """
    import torch_pruning as tp

    yield {"stage": "load"}
    teacher, preprocess = build_teacher(task.teacher, task.preprocess, classes=task.classes)
    x = torch.from_numpy(preprocess.normalise(pictures(2, preprocess.shape)))
    whole_params = count_params(teacher)
    size = "x".join(map(str, preprocess.shape))
    yield {
        "stage": "prune",
        "params_m": round(whole_params / 1e6, 2),
        "input": size,
        "spread": spread(logits_of(teacher, x)),
    }
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
                ignored_layers=heads(student, task.classes),
                round_to=(task.multiple or 8) if task.multiple != 1 else None,
            ).step()
            logits_of(student, x)
            kept = count_macs(student, preprocess.shape) / whole
        except Exception as reason:  # another ratio, nearer to the one that squares to the MACs, may do
            failure = failure or reason
            low, high = (low, ratio) if ratio > 1 - keep**0.5 else (ratio, high)
            continue
        share = count_params(student) / whole_params
        tried.append((abs(kept - keep), {"macs_kept": round(kept, 4), "params_kept": round(share, 4)}))
        if tried[-1][0] <= 0.02 * keep:
            break
        low, high = (ratio, high) if kept > keep else (low, ratio)
    if not tried:
        assert failure is not None  # noqa: S101 - every ratio failed
        raise failure
    best = min(tried, key=lambda pair: pair[0])[1]
    yield {"stage": "macs", **best}
    if best["macs_kept"] > keep + 0.05:
        raise StageError(f"keeps {best['macs_kept']:.2f} of the MACs at least")
    yield {"stage": "pass"}


def heads(model: nn.Module, classes: int) -> list[nn.Module]:
    """The layers that make the logits: what the model itself says, else the last that makes as many."""
    ask: Any = getattr(model, "get_classifier", lambda: None)
    named = ask()
    parts = [named] if isinstance(named, nn.Module) else list(named or [])
    layers = [module for part in parts for module in part.modules() if isinstance(module, _LAYERS)]
    makers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    return layers or [m for m in makers if getattr(m, "out_features", getattr(m, "out_channels", 0)) == classes][-1:]
