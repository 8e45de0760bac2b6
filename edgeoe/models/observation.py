"""Looking into a network while it runs: what passes a module, what a residual sum adds up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["ADDITIONS", "Point", "Recorder", "Sum", "look_at", "look_at_sum", "tensors_in"]

ADDITIONS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})  # as torch names its functions


@dataclass(frozen=True, slots=True)
class Point:
    """Where to look: what goes into a module, or what comes out of it."""

    module: str
    side: Literal["input", "output"] = "output"


@dataclass(frozen=True, slots=True)
class Sum:
    """A residual sum that a layer's output goes into, with nothing but `norm` in between.

    index: the how-manieth addition of a forward pass. operand: which of its two operands comes from the layer.
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
    """Within it, `seen[point]` holds the tensor that last passed each of `points` of `model`."""

    def __init__(self, model: nn.Module, points: tuple[Point, ...]) -> None:
        self._model, self._points = model, points
        self.seen: dict[Point, Tensor] = {}

    def __enter__(self) -> Recorder:
        self._handles = [self._hook(point) for point in self._points]
        return self

    def values(self) -> tuple[Tensor, ...]:
        """What was seen last, in the order of the points."""
        return tuple(self.seen[point] for point in self._points)

    def see(self, point: Point, tensor: Tensor) -> None:
        self.seen[point] = tensor.clone()  # what comes after may write into it

    def _hook(self, point: Point) -> Any:
        module = self._model.get_submodule(point.module)
        if point.side == "input":
            return module.register_forward_pre_hook(lambda module, args: self.see(point, args[0]))  # noqa: ARG005
        return module.register_forward_hook(lambda module, args, result: self.see(point, result))  # noqa: ARG005

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()


class _Enough(Exception):  # noqa: N818 - no error: the rest of a forward pass is of no interest
    pass


class _StopAtSum(TorchFunctionMode):
    """Ends a forward pass at its `index`-th addition and holds both operands in `seen`."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index, self._count = index, 0
        self.seen: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ADDITIONS:
            if self._count == self._index:
                left, right = tensors_in([args, kwargs or {}])
                self.seen = left, right
                raise _Enough
            self._count += 1
        return func(*args, **(kwargs or {}))


def look_at_sum(model: nn.Module, x: Tensor, layer: str, place: Sum) -> tuple[Tensor, Tensor, Tensor]:
    """The output of `layer`, and both operands of the residual sum that it goes into, when `model` is given x.

    The rest of the pass is left out.
    """
    stop = _StopAtSum(place.index)
    with suppress(_Enough), stop, Recorder(model, (Point(layer),)) as watch:
        model(x)
    assert stop.seen is not None  # noqa: S101 - the place is from the same network's structure
    return watch.values()[0], *stop.seen


def look_at(model: nn.Module, x: Tensor, *points: Point) -> tuple[Tensor, ...]:
    """What passes each of `points` when `model` is given x; what comes after the last of them is left out."""

    class Stop(Recorder):
        def see(self, point: Point, tensor: Tensor) -> None:
            super().see(point, tensor)
            if len(self.seen) == len(points):
                raise _Enough

    with suppress(_Enough), Stop(model, points) as watch:
        model(x)
    return watch.values()
