"""Activations of a network while it runs: what passes a module, and residual sums; recorded, or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = [
    "ADDITIONS",
    "HookPoint",
    "Observer",
    "Recorder",
    "ResidualSum",
    "capture",
    "capture_sum",
    "stream",
    "tensors_in",
]

Observer = Callable[[Tensor], None]

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


class _Additions(TorchFunctionMode):
    """Calls functions with both operands of additions in a forward pass, before they are added.

    observers: by the position of an addition among all, from 0.
    """

    def __init__(self, observers: Mapping[int, Callable[[Tensor, Tensor], None]]) -> None:
        super().__init__()
        self._observers, self._count = observers, 0
        self.counting = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.counting and func.__name__ in ADDITIONS:
            observer = self._observers.get(self._count)
            self._count += 1
            if observer is not None:
                left, right = tensors_in([args, kwargs or {}])
                observer(left, right)
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
    operands: list[Tensor] = []

    def stop(left: Tensor, right: Tensor) -> None:
        operands.extend((left, right))
        raise _Stop

    with suppress(_Stop), _Additions({place.index: stop}), Recorder(model, (HookPoint(layer),)) as recorder:
        model(x)
    left, right = operands
    return recorder.values()[0], left, right


class _Stream(Recorder):
    """Calls a function with each activation instead of recording it, once for each place of a forward pass."""

    def __init__(self, model: nn.Module, points: Mapping[HookPoint, Observer], sums: Mapping[int, Observer]) -> None:
        super().__init__(model, tuple(points))
        self._at_points, self._at_sums = points, sums
        self._waiting: set[HookPoint | int] = {*points, *sums}
        self.additions = _Additions({index: partial(self._record_sum, index) for index in sums})

    def record(self, point: HookPoint, tensor: Tensor) -> None:
        self._observe(point, self._at_points[point], tensor)

    def _record_sum(self, index: int, left: Tensor, right: Tensor) -> None:
        self._observe(index, self._at_sums[index], left + right)

    def _observe(self, place: HookPoint | int, observer: Observer, tensor: Tensor) -> None:
        if place not in self._waiting:
            return
        self._waiting.remove(place)
        self.additions.counting = False  # what the observer adds is no part of the network
        observer(tensor)
        self.additions.counting = True
        if not self._waiting:
            raise _Stop


def stream(
    model: nn.Module, x: Tensor, points: Mapping[HookPoint, Observer], sums: Mapping[int, Observer] | None = None
) -> None:
    """Run `model` on x and call each function with its activation as soon as it is computed; no activation is kept.

    The forward pass ends after the last of them. A module that is called several times is observed at its first call.

    points: functions of what passes a module; it is no copy, so later layers may write into it.
    sums: functions of residual sums, by the position of the sum among the additions, from 0.
    """
    observed = _Stream(model, points, sums or {})
    with suppress(_Stop), observed.additions, observed:
        model(x)
