"""Where a network may compute in channels last, which is faster, and what keeps that from crashing.

A crash of a kernel can't be caught, so the kernel must not be called: `UnitStride` sees to that. Whatever else may fail
in channels last (`x.view` of a map, say) raises, and a trial on two images shows it beforehand.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from edgeoe.errors import first_line, pass_on_out_of_memory

__all__ = ["UnitStride", "to_faster_format"]

_log = logging.getLogger(__name__)
_DIMS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_ROUNDING = 1e-2  # of the largest output
_BACKWARD = torch.ops.aten.convolution_backward.default


class UnitStride(TorchFunctionMode):
    """Within it a strided 1x1 convolution is a choice of pixels, then a convolution of stride 1: the same numbers.

    oneDNN's kernel for the gradient of a strided 1x1 convolution in channels last writes beyond its buffer if the
    convolution has fewer input channels than a vector has floats (1 to 7 with AVX2). A network comes to such layouts
    without being asked to, through `permute`, and to such widths through pruning.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _DIMS:
            return func(*_unit_stride(_DIMS[func], *args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _unit_stride(
    dims: int,
    input: Tensor,  # noqa: A002 - torch's names
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> tuple[Any, ...]:
    """The arguments of a convolution over `dims` places, without a stride where it is 1x1 and unpadded."""
    strides = _each(stride, dims)
    unpadded = padding == "valid" or (not isinstance(padding, str) and not any(_each(padding, dims)))
    if max(strides) > 1 and unpadded and weight.shape[2:].numel() == 1:
        pixels: tuple[Any, ...] = (..., *(slice(None, None, step) for step in strides))
        input, stride = input[pixels], 1  # noqa: A001
    return input, weight, bias, stride, padding, dilation, groups


def _each(value: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def to_faster_format(model: nn.Module, shape: tuple[int, int, int], *, trains: bool = False) -> nn.Module:
    """`model`, in place, with the weights of its convolutions in channels last if that is faster and safe.

    Convolutions then compute in channels last, whatever the layout of its images. A trial on copies shows whether the
    forward, and the backward, do the same.
    shape: (C, H, W) of its images.
    trains: whether gradients are needed, too.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if not _is_faster(device) or not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return model
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        reason = _failure(model, x, trains=trains)
    if reason:
        _log.info("computes in torch's default memory format: channels last fails (%s)", reason)
        return model
    return _channels_last(model)


def _is_faster(device: torch.device) -> bool:
    """Whether convolutions on `device` are faster in channels last: tensor cores, and oneDNN's vector kernels."""
    if device.type == "cuda":
        return True
    return bool(torch.backends.mkldnn.enabled) and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def _channels_last(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            for parameter in module.parameters():  # of its parametrisations, too
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _failure(model: nn.Module, x: Tensor, *, trains: bool) -> str:
    """What goes wrong in channels last; "" if nothing does."""
    trial = _channels_last(copy.deepcopy(model))
    try:
        with torch.no_grad():
            expected, got = copy.deepcopy(model).eval()(x), copy.deepcopy(trial).eval()(x)
        if not torch.allclose(got, expected, rtol=0.0, atol=_ROUNDING * float(expected.abs().max())):
            return "its outputs differ"
        if trains:
            with torch.enable_grad(), UnitStride(), _NoStridedKernel():  # type: ignore[no-untyped-call]
                trial(x).float().square().sum().backward()
    except Exception as reason:
        pass_on_out_of_memory(reason)
        return first_line(reason)
    return ""


class _NoStridedKernel(TorchDispatchMode):
    """Raises before the kernel that `UnitStride` is to keep from being called: compiled code passes that by."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _BACKWARD:
            _, _, weight, _, stride, padding, _, transposed, *_ = args
            if weight.shape[2:].numel() == 1 and max(stride) > 1 and not any(padding) and not transposed:
                raise RuntimeError("a strided 1x1 convolution can't be replaced")
        return func(*args, **(kwargs or {}))
