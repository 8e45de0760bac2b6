"""Activations of a network while it runs: what passes a module, and the operands of a residual sum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["ADDITIONS", "HookPoint", "Recorder", "ResidualSum", "capture", "capture_sum", "tensors_in"]

ADDITIONS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})  # as torch names its functions


@dataclass(frozen=True, slots=True)
class HookPoint:
    """Where an activation is recorded: at the input or the output of a module."""

    module: str
    side: Literal["input", "output"] = "output"


@dataclass(frozen=True, slots=True)
class ResidualSum:
    """A residual sum that adds a layer's output, with at most a batch norm in between.

    index: its position among the additions of a forward pass, from 0.
    operand: which of its two operands comes from the layer, 0 or 1.
    norm: the batch norm between the layer and the sum; None if there is none.
    """

    index: int
    operand: int
    norm: str | None


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Every tensor among `values`, however nested."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))


class Recorder(AbstractContextManager["Recorder"]):
    """Records activations: within it, `tensors[point]` is the tensor that last passed each of `points` of `model`."""

    def __init__(self, model: nn.Module, points: tuple[HookPoint, ...]) -> None:
        self._model, self._points = model, points
        self.tensors: dict[HookPoint, Tensor] = {}

    def __enter__(self) -> Recorder:
        self._handles = [self._hook(point) for point in self._points]
        return self

    def values(self) -> tuple[Tensor, ...]:
        """The tensors recorded last, in the order of the points."""
        return tuple(self.tensors[point] for point in self._points)

    def record(self, point: HookPoint, tensor: Tensor) -> None:
        """Keep a copy of `tensor`: later layers may write into it."""
        self.tensors[point] = tensor.clone()

    def _hook(self, point: HookPoint) -> Any:
        module = self._model.get_submodule(point.module)
        if point.side == "input":
            return module.register_forward_pre_hook(lambda module, args: self.record(point, args[0]))  # noqa: ARG005
        return module.register_forward_hook(lambda module, args, output: self.record(point, output))  # noqa: ARG005

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()


class _Stop(Exception):  # noqa: N818 - no error: it ends a forward pass early
    pass


class _StopAtSum(TorchFunctionMode):
    """Ends a forward pass at its `index`-th addition; `operands` are what would have been added."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index, self._count = index, 0
        self.operands: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ADDITIONS:
            if self._count == self._index:
                left, right = tensors_in([args, kwargs or {}])
                self.operands = left, right
                raise _Stop
            self._count += 1
        return func(*args, **(kwargs or {}))


class _StopAfterLast(Recorder):
    """Ends a forward pass once every point has been recorded."""

    def record(self, point: HookPoint, tensor: Tensor) -> None:
        super().record(point, tensor)
        if len(self.tensors) == len(self._points):
            raise _Stop


def capture(model: nn.Module, x: Tensor, *points: HookPoint) -> tuple[Tensor, ...]:
    """The activations of `model` at `points` for input x; the forward pass ends after the last of them."""
    with suppress(_Stop), _StopAfterLast(model, points) as recorder:
        model(x)
    return recorder.values()


def capture_sum(model: nn.Module, x: Tensor, layer: str, place: ResidualSum) -> tuple[Tensor, Tensor, Tensor]:
    """The output of `layer`, and both operands of its residual sum, for input x; the forward pass ends there."""
    stop = _StopAtSum(place.index)
    with suppress(_Stop), stop, Recorder(model, (HookPoint(layer),)) as recorder:
        model(x)
    assert stop.operands is not None  # noqa: S101 - `place` is from the structure of the same network
    return recorder.values()[0], *stop.operands
