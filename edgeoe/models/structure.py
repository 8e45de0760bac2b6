"""The structure of a network, read from one forward pass: layers in order, residual sums, blocks, features, head.

No list of architectures is needed: a TorchFunctionMode, which sees functional code as well as modules, records every
function of the forward pass with its input and output tensors. The structure follows from the graph of those tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgeoe.errors import PruningError
from edgeoe.models.observation import ADDITIONS, HookPoint, ResidualSum, tensors_in
from edgeoe.pruning.kinds import by_kind, module_kind

__all__ = ["LAYERS", "Block", "Structure", "blocks_by_kind", "read_structure"]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_SCALED = "scaled addition"  # torch.add(x, y, alpha=2)
_LINEAR = frozenset({"batch_norm", "dropout", "dropout_", "contiguous", "clone"})
_ARITHMETIC = ADDITIONS | {"mul", "__mul__", "__rmul__", "div", "__truediv__", "true_divide", "sub", "__sub__"}
_RECTIFIERS = frozenset({"relu", "relu_"})
_ACTIVATIONS = _RECTIFIERS | {
    *("relu6", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "silu", "silu_", "gelu"),
    *("leaky_relu", "leaky_relu_", "elu", "mish"),
}
_ELEMENTWISE = ADDITIONS | _LINEAR | _ACTIVATIONS
_Key = tuple[int, int]  # id and version of a tensor: an in-place function returns another version


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block: it computes x + f(x), so that x passes on when it is dropped.

    shape: of x, without the batch axis.
    producers: layers before it whose outputs are summed into x.
    consumers: layers after it that take the sum as input.
    """

    name: str
    shape: tuple[int, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """The parts of a network that pruning and recovery refer to.

    layers: layers with weights that run once, in their order.
    norms: {layer: the batch norm right after it}.
    sums: {layer: the residual sum that its output goes straight into}.
    blocks: residual blocks that can be dropped, in their order.
    features: what the head classifies, before pooling where only pooling lies between.
    head: the layer that outputs the logits.
    """

    layers: tuple[str, ...]
    norms: Mapping[str, str]
    sums: Mapping[str, ResidualSum]
    blocks: tuple[Block, ...]
    features: HookPoint
    head: str


def blocks_by_kind(model: nn.Module, blocks: Iterable[Block]) -> list[list[Block]]:
    """`blocks` of `model` in lists of one kind each: the same layers and the same input shape, so the same savings."""
    return by_kind(blocks, lambda block: (block.shape, module_kind(model.get_submodule(block.name))))


@dataclass(slots=True)
class _Op:
    """One function call of a forward pass. module: the innermost module that it ran in."""

    name: str
    module: str
    inputs: tuple[_Key, ...]
    output: _Key


@dataclass(slots=True)
class _Span:
    """One call of a module.

    first, last: the range of its operations; `last` is not among them.
    input: its first tensor argument; None if it has none.
    output: what it returned; None if that is not a tensor.
    """

    module: str
    first: int
    last: int = -1
    input: _Key | None = None
    output: _Key | None = None


def _key(tensor: Tensor) -> _Key:
    return id(tensor), tensor._version


@dataclass
class _Recorder(TorchFunctionMode):
    """Records every operation and every module call of one forward pass."""

    model: nn.Module
    ops: list[_Op] = field(default_factory=list)
    spans: list[_Span] = field(default_factory=list)
    shapes: dict[_Key, torch.Size] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)  # so that no two tensors share an id

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[_Span] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = tuple(self._note(tensor) for tensor in tensors_in([args, kwargs or {}]))
        result = func(*args, **(kwargs or {}))
        module = self._open[-1].module if self._open else ""
        for tensor in tensors_in(result):
            if _key(tensor) not in inputs:  # dropout in eval mode returns its input
                scaled = func.__name__ in ADDITIONS and (kwargs or {}).get("alpha", 1) != 1
                name = _SCALED if scaled else func.__name__
                self.ops.append(_Op(name, module, inputs, self._note(tensor)))
        return result

    def _note(self, tensor: Tensor) -> _Key:
        self.alive.append(tensor)
        self.shapes[_key(tensor)] = tensor.shape
        return _key(tensor)

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        first = next(tensors_in([args, kwargs]), None)
        span = _Span(name, len(self.ops), input=None if first is None else self._note(first))
        self.spans.append(span)
        self._open.append(span)

    def leave(self, name: str, module: nn.Module, args: Any, result: Any) -> None:  # noqa: ARG002
        span = self._open.pop()
        span.last = len(self.ops)
        span.output = self._note(result) if isinstance(result, Tensor) else None

    def run(self, x: Tensor) -> None:
        handles = []
        for name, module in self.model.named_modules():
            enter, leave = partial(self.enter, name), partial(self.leave, name)
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        try:
            with torch.no_grad(), self:
                self.model(x)
        finally:
            for handle in handles:
                handle.remove()


def read_structure(model: nn.Module, shape: tuple[int, int, int]) -> Structure:
    """The structure of `model`.

    model: in eval mode.
    shape: (C, H, W) of an image.
    Raises PruningError if no single layer outputs its logits.
    """
    recorder = _Recorder(model)
    device = next(model.parameters()).device
    recorder.run(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(device))
    return _Graph(recorder).structure()


class _Graph:
    """The graph of tensors of a recorded forward pass."""

    def __init__(self, recorder: _Recorder) -> None:
        self.ops, self.spans, self.shapes = recorder.ops, recorder.spans, recorder.shapes
        modules = dict(recorder.model.named_modules())
        self.producer_of = {op.output: op for op in self.ops}
        self.consumers_of: dict[_Key, list[_Op]] = {}
        for op in self.ops:
            for key in op.inputs:
                self.consumers_of.setdefault(key, []).append(op)
        calls: dict[str, int] = {}
        for span in self.spans:
            calls[span.module] = calls.get(span.module, 0) + 1
        self.called_once = {name for name, n in calls.items() if n == 1}
        self.layer_spans = {
            span.output: span
            for span in self.spans
            if span.output and span.module in self.called_once and isinstance(modules[span.module], LAYERS)
        }
        self.layers_with_input: dict[_Key | None, list[str]] = {}
        for span in self.layer_spans.values():
            self.layers_with_input.setdefault(span.input, []).append(span.module)
        self.norm_spans = {
            span.output: span
            for span in self.spans
            if span.output and isinstance(modules[span.module], nn.modules.batchnorm._BatchNorm)
        }

    def structure(self) -> Structure:
        head = self._head()
        norms = {}
        for span in self.norm_spans.values():
            layer = self.layer_spans.get(span.input) if span.input else None
            if layer is not None:
                norms[layer.module] = span.module
        return Structure(
            layers=tuple(span.module for span in self.layer_spans.values()),
            norms=norms,
            sums=dict(self._sums()),
            blocks=tuple(self._blocks()),
            features=self._features(head),
            head=head.module,
        )

    def _head(self) -> _Span:
        key = self.spans[0].output
        while key is not None and key not in self.layer_spans:
            key = self._single_source(key)
        if key is None:
            raise PruningError(
                "no single linear layer or convolution makes this teacher's outputs, and every method but kd refers to "
                "one. Use --method kd, which distils outputs, whatever makes them."
            )
        return self.layer_spans[key]

    def _single_source(self, key: _Key) -> _Key | None:
        """What `key` is computed from, if that is one tensor, or one that parameters alone scale and shift."""
        op = self.producer_of.get(key)
        if op is None or len(op.inputs) == 1 or op.name not in _ARITHMETIC:
            return op.inputs[0] if op is not None and len(op.inputs) == 1 else None
        computed = [given for given in op.inputs if given in self.producer_of]
        return computed[0] if len(computed) == 1 and self.shapes[computed[0]] == self.shapes[key] else None

    def _features(self, head: _Span) -> HookPoint:
        key = head.input
        outputs = {span.output: span.module for span in reversed(self.spans) if span.output}  # the outermost wins
        while key is not None and key not in self.layer_spans and not _is_map(self.shapes[key]):
            op = self.producer_of.get(key)
            key = op.inputs[0] if op is not None and len(op.inputs) == 1 else None
        if key is not None and _is_map(self.shapes[key]) and key in outputs:
            return HookPoint(outputs[key])
        return HookPoint(head.module, "input")

    def _sums(self) -> Iterator[tuple[str, ResidualSum]]:
        additions = [op for op in self.ops if op.name in ADDITIONS or op.name == _SCALED]
        for index, op in enumerate(additions):
            if op.name == _SCALED or len(op.inputs) != 2 or self.shapes[op.inputs[0]] != self.shapes[op.inputs[1]]:
                continue
            for operand, key in enumerate(op.inputs):
                source = self._source_layer(key)
                if source is not None:
                    layer, norm = source
                    yield layer, ResidualSum(index, operand, norm)

    def _source_layer(self, key: _Key) -> tuple[str, str | None] | None:
        """The layer that outputs `key`, and the batch norm between; None if anything else lies between."""
        norm = None
        while key not in self.layer_spans:
            if key in self.norm_spans and norm is None and self._is_plain(self.norm_spans[key]):
                span = self.norm_spans[key]
                norm, key = span.module, span.input or key
                continue
            op = self.producer_of.get(key)
            if op is None or op.name not in _LINEAR - {"batch_norm"}:
                return None
            key = op.inputs[0]
        return self.layer_spans[key].module, norm

    def _is_plain(self, span: _Span) -> bool:
        """Whether a batch norm's call runs no activation function."""
        return [op.name for op in self.ops[span.first : span.last] if len(op.inputs) and op.name in _ACTIVATIONS] == []

    def _blocks(self) -> Iterator[Block]:
        residual = [span for span in self.spans if span.module in self.called_once and self._passes_on(span)]
        for span in residual:
            nested = any(s is not span and span.first <= s.first and s.last <= span.last for s in residual)
            if not nested and span.input and span.output:
                yield Block(
                    span.module,
                    tuple(self.shapes[span.input][1:]),
                    producers=tuple(dict.fromkeys(self._producers(span.input))),
                    consumers=tuple(dict.fromkeys(self._consumers(span.output))),
                )

    def _passes_on(self, span: _Span) -> bool:
        """Whether a module's input reaches its output through additions and rectifiers alone."""
        if span.input is None or span.output is None or self.shapes[span.input] != self.shapes[span.output]:
            return False
        reached, added = {span.input}, False
        for op in self.ops[span.first : span.last]:
            if reached.intersection(op.inputs):
                if op.name in ADDITIONS:
                    added = True
                elif op.name not in _RECTIFIERS | _LINEAR - {"batch_norm"}:
                    continue
                reached.add(op.output)
        return added and span.output in reached

    def _producers(self, key: _Key) -> Iterator[str]:
        """The layers whose outputs are summed into `key`."""
        waiting, visited = [key], set()
        while waiting:
            key = waiting.pop()
            op = self.producer_of.get(key)
            if key in self.layer_spans:
                yield self.layer_spans[key].module
            elif key not in visited and op is not None and op.name in _ELEMENTWISE:
                waiting.extend(op.inputs if op.name in ADDITIONS else op.inputs[:1])
            visited.add(key)

    def _consumers(self, key: _Key) -> Iterator[str]:
        """The layers whose input is `key`, or a sum that it goes into."""
        waiting, visited = [key], set()
        while waiting:
            key = waiting.pop()
            if key in visited:
                continue
            visited.add(key)
            yield from self.layers_with_input.get(key, [])
            waiting.extend(op.output for op in self.consumers_of.get(key, []) if op.name in _ELEMENTWISE)


def _is_map(shape: torch.Size) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1
