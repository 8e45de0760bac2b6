"""A network that was in memory, as plain data: `torch.export` captures it once, and any process rebuilds it.

The rebuilt network needs no code of the user's. A program calls operators of `torch.ops.aten` and a little arithmetic
on sizes, and can call nothing else; its tensors lie in a safetensors file. So nothing that is read can run code.

An argument is what JSON has, or an object of one key: {"value": name of an earlier result}, {"tensor": name},
{"dtype": "float32"}, {"device": "cpu"}, {"layout": "strided"}, {"memory_format": "channels_last"}, {"float": "inf"}.
"""

from __future__ import annotations

import io
import logging
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from edgeoe.errors import TeacherError, first_line, pass_on_out_of_memory
from edgeoe.records.program import Call, Program

__all__ = ["ProgramModule", "capture"]

_OF_OPERATOR = ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "getitem", "eq", "ne", "lt", "le",
                "gt", "ge", "and_", "or_")  # fmt: skip
_OF_TORCH = ("sym_max", "sym_min", "sym_int", "sym_float", "sym_not")
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    f"python.{name}": getattr(home, name)
    for home, names in ((operator, _OF_OPERATOR), (torch, _OF_TORCH))
    for name in names
}
_FOLLOWED: dict[str, Callable[..., Any]] = {  # as Python's methods, whose sizes the TorchScript exporter follows
    "aten.sym_size.int": lambda tensor, axis: tensor.shape[axis],
    "aten.view.default": torch.Tensor.view,
    "aten.reshape.default": torch.Tensor.reshape,
    "aten.expand.default": torch.Tensor.expand,
}
_NAMES = {function: name for name, function in _ARITHMETIC.items()}
_CHECKS = re.compile(r"aten\._?(assert_\w+|sym_constrain_range\w*|assert_async)\.\w+")  # they compute nothing
_ATEN = re.compile(r"aten\.(\w+)\.(\w+)")
_KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
_FACTORY = (
    "Name a factory instead, which a run can copy: let a function in a file of your own return the network, save its "
    "weights with torch.save(network.state_dict(), 'weights.pt'), and give --teacher FILE.py:FACTORY and "
    "--weights FILE."
)


class _NoProgramError(Exception):
    """Something that a program can't hold."""


@torch.no_grad()
def capture(model: nn.Module, shape: tuple[int, int, int], *, name: str) -> tuple[Program, dict[str, Tensor]]:
    """`model` as a program for any number of images, and its tensors by name.

    model: in eval mode on the CPU; answers with logits alone.
    shape: (C, H, W) of an image.
    name: what messages call it.
    Raises TeacherError, with the way out, where torch.export can't capture it.
    """
    try:
        with _quiet():
            exported = torch.export.export(
                model,
                (torch.zeros(2, *shape),),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                strict=False,
            )
        return _program(exported)
    except Exception as reason:
        pass_on_out_of_memory(reason)
        line = first_line(reason).rstrip(".")
        raise TeacherError(
            f"--teacher {name}: a network in memory goes along with the run as torch.export captures it, and that "
            f"fails: {type(reason).__name__.lstrip('_')}: {line}. {_FACTORY}"
        ) from reason


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch.export prints, logs and warns of from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _program(exported: torch.export.ExportedProgram) -> tuple[Program, dict[str, Tensor]]:
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    state = {**exported.constants, **exported.state_dict}
    kinds: dict[str, InputKind] = {}
    targets: dict[str, str] = {}  # names of tensors, by that of the graph's input
    for name, spec in specs.items():
        if spec.kind is not InputKind.USER_INPUT:
            assert spec.target is not None  # noqa: S101 - what no input of the user has
            kinds[spec.target], targets[name] = spec.kind, spec.target
    calls, logits, images = [], "", next(name for name, spec in specs.items() if spec.kind is InputKind.USER_INPUT)
    for node in exported.graph.nodes:
        if node.op == "call_function" and not (_CHECKS.fullmatch(str(node.target)) and not node.users):
            calls.append(
                Call(
                    name=node.name,
                    function=_name_of(node.target),
                    arguments=tuple(_plain(one, targets) for one in node.args),
                    named={key: _plain(one, targets) for key, one in node.kwargs.items()},
                )
            )
        elif node.op == "get_attr":
            raise _NoProgramError("its forward branches on values, or turns gradients or autocast on or off")
        elif node.op == "output":
            (result,) = node.args[0]
            logits = result.name
    tensors = {name: state[name].detach().clone().contiguous() for name in kinds}
    program = Program(
        images=images,
        parameters=tuple(name for name, kind in kinds.items() if kind is InputKind.PARAMETER),
        buffers=tuple(name for name, kind in kinds.items() if kind is not InputKind.PARAMETER),
        calls=tuple(calls),
        logits=logits,
    )
    return program, tensors


def _name_of(target: Any) -> str:
    name = _NAMES.get(target) or str(target)
    _function(name)  # what can't be read is not written
    return name


def _function(name: str) -> Callable[..., Any]:
    """The function that a program calls by `name`. Raises _NoProgramError for any that it must not call."""
    if name in _ARITHMETIC:
        return _ARITHMETIC[name]
    if name in _FOLLOWED:
        return _FOLLOWED[name]
    match = _ATEN.fullmatch(name)
    packet = getattr(torch.ops.aten, match[1], None) if match else None
    found = getattr(packet, match[2], None) if match and isinstance(packet, torch._ops.OpOverloadPacket) else None
    if not isinstance(found, torch._ops.OpOverload) or any("file" in one.name for one in found._schema.arguments):
        raise _NoProgramError(f"it calls {name}, which is no operator of torch.ops.aten")
    return found


def _plain(value: Any, targets: Mapping[str, str]) -> Any:
    """An argument as JSON has it. targets: names of tensors, by that of the graph's input."""
    if isinstance(value, fx.Node):
        return {"tensor": targets[value.name]} if value.name in targets else {"value": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(one, targets) for one in value]
    for kind, of in _KINDS.items():
        if isinstance(value, of):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise _NoProgramError(f"a value of the kind {type(value).__name__} is passed on in it")


class ProgramModule(nn.Module):
    """The network that `program` describes.

    tensors: by name, as `capture` has returned them.
    Raises ValueError for a program that calls what no program may call, or whose tensors are others.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        if {*program.parameters, *program.buffers} != tensors.keys():
            raise ValueError("its tensors are not those of its calls")
        for name in (*program.parameters, *program.buffers):
            _put(self, name, tensors[name], is_parameter=name in program.parameters)
        self._program = program
        try:
            self._functions = [_function(call.function) for call in program.calls]
        except _NoProgramError as reason:
            raise ValueError(str(reason)) from None
        self._last_uses = _last_uses(program)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        values: dict[str, Any] = {self._program.images: images}
        for call, function, unused in zip(self._program.calls, self._functions, self._last_uses, strict=True):
            arguments = [self._filled(one, values) for one in call.arguments]
            named = {key: self._filled(one, values) for key, one in call.named.items()}
            values[call.name] = function(*arguments, **named)
            for name in unused:
                del values[name]
        logits: Tensor = values[self._program.logits]
        return logits

    def _filled(self, argument: Any, values: Mapping[str, Any]) -> Any:
        """`argument` of a call, with earlier results and tensors in their places."""
        if isinstance(argument, list):
            return [self._filled(one, values) for one in argument]
        if not isinstance(argument, dict):
            return argument
        ((kind, name),) = argument.items()
        if kind == "value":
            return values[name]
        if kind == "tensor":
            return self._tensor(name)
        if kind == "device":
            return torch.device(name)
        if kind == "float":
            return float(name)
        value = getattr(torch, name, None) if isinstance(name, str) else None
        if kind not in _KINDS or not isinstance(value, _KINDS[kind]):
            raise ValueError(f"{argument} is no argument of a program")
        return value

    def _tensor(self, name: str) -> Tensor:
        place, _, leaf = name.rpartition(".")
        tensor: Tensor = getattr(self.get_submodule(place), leaf)
        return tensor


def _put(root: nn.Module, name: str, tensor: Tensor, *, is_parameter: bool) -> None:
    """Give `root` a tensor by its name in a state dict; the modules on the way there are made."""
    *places, leaf = name.split(".")
    for place in places:
        if place not in root._modules:
            root.add_module(place, nn.Module())
        root = root.get_submodule(place)
    if is_parameter:
        root.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        root.register_buffer(leaf, tensor)


def _last_uses(program: Program) -> list[tuple[str, ...]]:
    """For each call the results that nothing after it uses."""
    later, unused = {program.logits}, []
    for call in reversed(program.calls):
        here = {call.name, *_used(call.arguments), *_used(call.named)}
        unused.append(tuple(here - later))
        later |= here
    return unused[::-1]


def _used(argument: Any) -> Iterator[str]:
    """Names of earlier results within an argument."""
    if isinstance(argument, (list, tuple)):
        for one in argument:
            yield from _used(one)
    elif isinstance(argument, dict):
        for key, one in argument.items():
            if key == "value" and isinstance(one, str):
                yield one
            else:
                yield from _used(one)
