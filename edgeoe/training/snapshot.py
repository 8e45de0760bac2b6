"""The state of training between two steps, saved so that an interrupted training goes on and ends the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgeoe.balance.divergence import Divergence
from edgeoe.balance.stopping import BestWeights
from edgeoe.methods import TrainingTask
from edgeoe.models.in_memory import tensors_sha256
from edgeoe.run.saved_work import SavedWork, State

__all__ = ["Snapshots", "task_key"]

_NAME = "training"
_log = logging.getLogger(__name__)


def task_key(student: nn.Module, task: TrainingTask) -> str:
    """A name of the training of `student` as `task` says, which no other training has."""
    numbers = (task.lr, task.max_steps, task.label_weight, task.momentum, task.weight_decay)
    tensors = {name: value for name, value in student.state_dict().items() if isinstance(value, Tensor)}
    return f"{task.name} {numbers} {tensors_sha256(tensors)}"


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Saves the state of one training to `work`, and restores it.

    The state holds weights, running statistics, momentum, the best weights so far, the scale of fp16 gradients, and
    torch's random state. Batches and the learning rate follow from the step.

    key: of the training.
    """

    work: SavedWork
    key: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    best: BestWeights
    divergence: Divergence
    fabric: Fabric

    def restore(self, task: TrainingTask) -> int:
        """Restore the state that was saved last. Returns its number of steps; 0 without one."""
        state = self.work.take(_NAME, self.key)
        if state is None:
            return 0
        steps: int = state.facts["steps"]
        if self.fabric.is_global_zero:
            _log.warning("%s: goes on at step %d of %d.", task.name, steps, task.max_steps)
        parts = {part: dict(_within(state.tensors, part)) for part in ("weights", "best", "momentum", "random")}
        self.module.load_state_dict(parts["weights"])
        device = self.fabric.device
        self.best.resume(state.facts["best"], {name: value.to(device) for name, value in parts["best"].items()})
        for number, parameter in enumerate(self._parameters()):
            if (momentum := parts["momentum"].get(str(number))) is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        self.divergence.total = state.tensors["total"].to(device)
        if state.facts["scaler"]:
            self.fabric.strategy.precision.load_state_dict(state.facts["scaler"])
        torch.set_rng_state(parts["random"]["cpu"])
        if device.type == "cuda" and "cuda" in parts["random"]:
            torch.cuda.set_rng_state(parts["random"]["cuda"], device)
        return steps

    def save_if_due(self, steps: int) -> None:
        """Save the state after that many steps, if the last save was long enough ago."""
        if not self.work.is_due:
            return
        weights = self.module.state_dict()
        if not all(isinstance(value, Tensor) for value in weights.values()):
            return  # extra state of a module, in no form that could be kept
        best_facts, best = self.best.saved()
        momentum = {
            str(number): self.optimizer.state[parameter]["momentum_buffer"]
            for number, parameter in enumerate(self._parameters())
            if self.optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        }
        random = {"cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        parts = {"weights": weights, "best": best, "momentum": momentum, "random": random}
        tensors = {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}
        facts: dict[str, Any] = {
            "steps": steps,
            "best": best_facts,
            "scaler": self.fabric.strategy.precision.state_dict(),
        }
        self.work.save(_NAME, State(self.key, facts, tensors | {"total": self.divergence.total}))

    def _parameters(self) -> Iterator[nn.Parameter]:
        """Those that the optimiser trains, in its order."""
        return chain.from_iterable(group["params"] for group in self.optimizer.param_groups)


def _within(tensors: Mapping[str, Tensor], part: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in tensors.items():
        if name.startswith(f"{part}/"):
            yield name.removeprefix(f"{part}/"), value
