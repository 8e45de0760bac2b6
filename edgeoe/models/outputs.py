"""What a teacher must answer, checked before any image is read: logits for each class, and each image for itself."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgeoe.errors import TeacherError, first_line, pass_on_out_of_memory
from edgeoe.models.classifier import describe_outputs
from edgeoe.models.observation import tensors_in

__all__ = ["check_outputs", "check_rows"]

_log = logging.getLogger(__name__)
_OTHER_TYPES = re.compile(r"BFloat16|Half|Double|c10::|float16|float64|must have the same dtype")
_ROUNDING = 1e-3  # of the largest output


@torch.no_grad()
def check_outputs(teacher: nn.Module, shape: tuple[int, int, int], *, classes: int | None) -> None:
    """Run `teacher` on two black images, and log which of several outputs is taken as its logits.

    shape: (C, H, W) of an image.
    classes: number of classes; None takes any.
    Raises TeacherError unless it outputs finite logits (2, classes).
    """
    try:
        logits = teacher(torch.zeros(2, *shape))
        several = describe_outputs(teacher, torch.zeros(2, *shape))
    except Exception as reason:
        pass_on_out_of_memory(reason)
        raise TeacherError(
            f"the teacher fails on images of {shape} (channels, height, width): {first_line(reason).rstrip('.')}. "
            + (_of_types(reason) or _of_channels(teacher, shape[0]) or "Check size, mean and std under [preprocess].")
        ) from reason
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 2 or got != (2, classes or logits.shape[1]):
        expected = "(2, classes)" if classes is None else f"(2, {classes}), one per class folder"
        raise TeacherError(f"the teacher must answer 2 images with logits {expected}. Got {got}.")
    if not math.isfinite(logits.abs().sum().item()):
        raise TeacherError("the teacher's logits are not finite. Check its weights and [preprocess].")
    if several:
        _log.warning("the teacher has several outputs: %s.", several)


def _of_types(reason: Exception) -> str:
    """A hint that the network computes in a type other than its weights have been converted to; "" if it does not."""
    if not _OTHER_TYPES.search(str(reason)):
        return ""
    return "Everything is computed in float32: let its forward convert nothing, or to the type of its own weights."


def _of_channels(teacher: nn.Module, channels: int) -> str:
    """A hint that the first convolution takes a number of channels other than `channels`; "" if it does not."""
    first = next((module for module in teacher.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels == channels or first.in_channels not in (1, 3):
        return ""
    needed = "one value (greyscale)" if first.in_channels == 1 else "three values (RGB)"
    return f"Its first convolution takes {first.in_channels} channel(s): give mean and std under [preprocess] {needed}."


@torch.no_grad()
def check_rows(teacher: nn.Module, shape: tuple[int, int, int]) -> None:
    """Check that `teacher` answers each image of a batch as it answers that image alone.

    A device gets one image at a time. What a network that normalises over its batch learns, and how accurate it is,
    would depend on which images happen to be together.

    teacher: in eval mode; outputs logits.
    shape: (C, H, W) of an image.
    Raises TeacherError if the images of a batch change each other's logits, if the logits are random, or if it takes
    no single image.
    """
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    together = teacher(x)
    try:
        alone = torch.cat([teacher(one) for one in x.split(1)])
    except Exception as reason:
        pass_on_out_of_memory(reason)
        raise TeacherError(
            f"the teacher answers two images and fails on one: {first_line(reason).rstrip('.')}. A device gets one "
            "image at a time: let its forward take any number, e.g. x.flatten(1) instead of x.view(2, -1)."
        ) from reason
    if _alike(alone, together):
        return
    if not _alike(teacher(x), together):
        raise TeacherError(
            "the teacher answers the same images differently each time: its forward draws random numbers or changes "
            "its own state, in eval mode too. Let it do so under `if self.training:` alone."
        )
    difference, largest = (alone - together).abs().max().item(), together.abs().max().item()
    raise TeacherError(
        "the teacher mixes the images of a batch: its logits for two images together and for each alone differ by "
        f"{difference:.3g}, the largest is {largest:.3g}{_mixing_module(teacher, x)}. A device gets one image at a "
        "time. Let it normalise each image for itself, or by running statistics (track_running_stats=True)."
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs for the same images are equal up to rounding."""
    return one.shape == other.shape and bool((one - other).abs().max() <= _ROUNDING * other.abs().max())


def _mixing_module(model: nn.Module, x: Tensor) -> str:
    """The first module that is given of two images what it is given of each alone, and answers otherwise, as the end of
    a clause; "" if there is none."""
    runs = [list(_calls(model, images)) for images in (x, x[:1], x[1:])]
    if len({tuple(name for name, *_ in run) for run in runs}) > 1:
        return ""
    for (name, given, output), *single in zip(*runs, strict=True):
        inputs, outputs = (_joined([call[place] for call in single]) for place in (1, 2))
        if name and _agree(given, inputs) is True and _agree(output, outputs) is False:
            return f", first in {name} ({type(model.get_submodule(name)).__name__})"
    return ""


def _agree(one: Tensor | None, other: Tensor | None) -> bool | None:
    """Whether both are equal up to rounding; None if they can't be compared."""
    return None if one is None or other is None or one.shape != other.shape else _alike(one, other)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    fit = len(tensors) == len(parts) and all(t.dim() and t.shape[1:] == tensors[0].shape[1:] for t in tensors)
    return torch.cat(tensors) if fit else None


def _first(values: Any) -> Tensor | None:
    """A copy of the first tensor among `values`: later layers may write into it."""
    return next((tensor.clone() for tensor in tensors_in(values)), None)


def _calls(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    """(module, first input, first output) of every call of a module in a forward pass, in the order that they end."""
    calls: list[tuple[str, Tensor | None, Tensor | None]] = []

    def note(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:  # noqa: ARG001 - torch's
        calls.append((name, _first(args) if args else _first(kwargs), _first(output)))

    handles = [
        module.register_forward_hook(partial(note, name), with_kwargs=True) for name, module in model.named_modules()
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return iter(calls)
