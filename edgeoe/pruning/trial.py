"""One trial of a verification: a network without some channels beside the same network with their weights zeroed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeoe.errors import first_line, pass_on_out_of_memory
from edgeoe.pruning.attention import with_explicit_attention
from edgeoe.pruning.caches import without_caches
from edgeoe.pruning.groups import Group
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.rules import averages_neighbours
from edgeoe.pruning.sources import failing_line
from edgeoe.pruning.trace import unfused_attention

__all__ = ["DIFFERS", "FAILS", "Trials", "example"]

DIFFERS = "removing them is not the same as zeroing them"
FAILS = "the network fails without them"


class Trials:
    """Trials on a copy of `teacher` in which no tensor is constant, with one random image.

    teacher: in eval mode.
    shape: (C, H, W) of an image.
    """

    def __init__(self, teacher: nn.Module, shape: tuple[int, int, int]) -> None:
        self.model, self._images = _randomised(teacher), example(shape)

    def failure(self, groups: Sequence[Group], removed: Mapping[str, tuple[int, ...]]) -> str:
        """Why units of `groups` can't be pruned; "" if removing them equals zeroing them.

        Where float32 differs, float64 decides: a deep network may amplify rounding errors.

        removed: {group: units to remove}.
        """
        reason = _difference(self.model, self._images, groups, removed)
        if reason != DIFFERS:
            return reason
        exact = _difference(copy.deepcopy(self.model).double(), self._images.double(), groups, removed)
        return exact if exact in ("", DIFFERS) else reason


@torch.no_grad()
def _difference(
    model: nn.Module, images: Tensor, groups: Sequence[Group], removed: Mapping[str, tuple[int, ...]]
) -> str:
    with unfused_attention(), _WidthInvariant() as mode:
        expected = without_caches(_zeroed(model, groups, removed))(images)
        mode.begin_again()
        try:
            outputs = without_channels(model, groups, removed)(images)
        except Exception as reason:
            pass_on_out_of_memory(reason)
            line = failing_line(reason)
            where = f" at {line}" if line else ""
            return f"{FAILS}{where} ({type(reason).__name__}: {first_line(reason)})"
    if outputs.shape != expected.shape:
        return "they are the network's outputs"
    if not torch.allclose(outputs, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        return DIFFERS
    return ""


def _zeroed(model: nn.Module, groups: Sequence[Group], removed: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of `model` in which everything that holds the `removed` units is 0."""
    zeroed = copy.deepcopy(model)
    for group in groups:
        for slot, rows in group.slots.items():
            tensor = getattr(zeroed.get_submodule(slot.module), slot.tensor)
            indices = [index for unit in removed.get(group.name, ()) for index in rows[unit]]
            tensor.data.index_fill_(slot.axis, torch.tensor(indices, dtype=torch.long), 0.0)
    return zeroed


def _randomised(teacher: nn.Module) -> nn.Module:
    """A copy with random values in place of every constant tensor.

    Freshly initialised networks scale whole branches by zero, which would hide differences in them.
    """
    model = with_explicit_attention(copy.deepcopy(teacher)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise if name.endswith(("running_var", "weight", "gamma")) else noise - 0.5)
    return without_caches(model)


def example(shape: tuple[int, int, int], rows: int = 1) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))


class _WidthInvariant(TorchDispatchMode):
    """Replaces operators whose result depends on the number of channels by ones that zeroed channels don't change.

    Layer norms divide by a length instead of a mean square, means become sums, weights are not standardised, and a
    softmax, which may run over the dimensions of a head, weighs each entry by itself.
    Attention that is nearly even, as that of a network without training is, would hide which dimensions multiply: it is
    sharpened, by the same factors in each pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._factors: list[float] = []  # of each softmax, in order
        self._at = 0

    def begin_again(self) -> None:
        """Expect another pass through the same operators."""
        self._at = 0

    def _sharpness(self, scores: Tensor) -> float:
        """The factor that the first pass gives the usual score a size of 2 by, if it is smaller."""
        if self._at == len(self._factors):
            usual = float(scores[scores.isfinite()].abs().median())
            self._factors.append(min(1e4, max(1.0, 2 / max(usual, 1e-12))))
        self._at += 1
        return self._factors[self._at - 1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | (kwargs or {})
        if name in ("_softmax", "_safe_softmax"):
            return (args[0] * self._sharpness(args[0])).tanh()
        if name in ("native_layer_norm", "_fused_rms_norm"):
            x, axes = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
            y = _affine(x * (x.square().sum(axes, keepdim=True) + 1e-6).rsqrt() * 16, given)
            return (y, *(x.new_zeros(1) for _ in func._schema.returns[1:]))
        if name == "native_group_norm" and given["group"] == 1:
            x = given["input"]
            scale = (x.square().flatten(1).sum(1) + 1e-6).rsqrt().view(-1, *([1] * (x.dim() - 1))) * 16
            shape = (1, -1, *([1] * (x.dim() - 2)))
            return _affine(x * scale, given, shape), x.new_zeros(1), x.new_zeros(1)
        if name == "avg_pool3d" and averages_neighbours(given["kernel_size"], given.get("stride")):
            return torch.zeros_like(func(*args, **(kwargs or {})))  # of a local response norm
        if name in ("mean", "var", "std"):
            y, dim = given["self"] if name == "mean" else given["self"].square(), given.get("dim")
            return (y.sum(dim, keepdim=given.get("keepdim", False)) if dim else y.sum()) / 64
        if name == "native_batch_norm" and given["training"]:
            x = given["input"]
            return _affine(x, given, (1, -1, *([1] * (x.dim() - 2)))), x.new_zeros(1), x.new_zeros(1)
        return func(*args, **(kwargs or {}))


def _affine(x: Tensor, given: Mapping[str, Any], shape: tuple[int, ...] | None = None) -> Tensor:
    weight, bias = given.get("weight"), given.get("bias")
    x = x if weight is None else x * (weight if shape is None else weight.view(shape))
    return x if bias is None else x + (bias if shape is None else bias.view(shape))
