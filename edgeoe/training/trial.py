"""One step of training on random images, before any image is read: a network that can't be trained is refused then."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from edgeoe.errors import TeacherError, first_line, pass_on_out_of_memory
from edgeoe.models.structure import LAYERS
from edgeoe.pruning.names import shortened
from edgeoe.training.batchnorm import train_batchnorms
from edgeoe.training.memory_format import UnitStride

__all__ = ["check_trainable"]

_log = logging.getLogger(__name__)
_OTHERWISE = "--method fskd solves for the weights of layers, without gradients."


def check_trainable(teacher: nn.Module, shape: tuple[int, int, int]) -> None:
    """Run forward and backward of a training step on a copy of `teacher`, as the workbench trains a student.

    Layers that a gradient of the logits does not reach stay as they are pruned; they are logged.

    teacher: on the CPU.
    shape: (C, H, W) of an image.
    Raises TeacherError if a step fails, or if its gradient reaches no layer but the last.
    """
    student = train_batchnorms(copy.deepcopy(teacher)).requires_grad_(True)
    ran: dict[str, nn.Module] = {}
    for name, module in student.named_modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(partial(_note, ran, name))
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.enable_grad(), torch.random.fork_rng([]), UnitStride(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a forward warns of is its author's, and no failure
            logits = student(x)
            if logits.requires_grad:
                logits.float().square().mean().backward()
    except Exception as reason:
        pass_on_out_of_memory(reason)
        raise TeacherError(
            f"the teacher can't be trained: one step of training fails with {type(reason).__name__}: "
            f"{first_line(reason).rstrip('.')}. {_OTHERWISE}"
        ) from reason
    without = [name for name, layer in ran.items() if all(part.grad is None for part in layer.parameters())]
    if without:
        _judge(without, list(ran))


def _note(ran: dict[str, nn.Module], name: str, module: nn.Module, *_: object) -> None:
    ran[name] = module


def _judge(without: Sequence[str], layers: Sequence[str]) -> None:
    """Log the layers `without` a gradient; raise TeacherError if no layer but the last has one.

    layers: those that ran, in their order.
    """
    names, cause = shortened(without), "under torch.no_grad(), or through .data, .detach() or .numpy()"
    if set(layers[:-1]) <= set(without):
        raise TeacherError(
            f"the teacher can't be trained: no gradient reaches its layers ({names}): its forward computes {cause}. "
            f"Let it compute with gradients, or choose a method that needs none: {_OTHERWISE}"
        )
    _log.warning("no gradient reaches %s, which training leaves as pruned: forward computes %s.", names, cause)
