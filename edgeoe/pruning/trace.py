"""Which numbers of a network belong to which channel, through any code that its forward runs.

One forward pass on names instead of numbers. Every element of every activation carries the name of the channel
that it came from. Whatever moves data (view, permute, cat, split, roll, pad, ...) moves the names, by running
the same function on them; arithmetic on two elements unites their names (residual sums, gates, attention heads);
a convolution or linear layer reads names along its inputs and begins new ones at its outputs. What bears one
name in the end can only go together. No list of architectures: a head of attention, a group of a grouped
convolution or a slice of a position embedding comes out of the arithmetic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from edgeoe.errors import pass_on_out_of_memory
from edgeoe.pruning.union_find import Names, leading, narrowed

__all__ = ["Fix", "Slot", "Tied", "decomposed", "read_channels"]


class Slot(NamedTuple):
    """An axis of a parameter or buffer of a module, both as they are named there."""

    module: str
    tensor: str
    axis: int


class Fix(NamedTuple):
    """An attribute of a module that counts channels: it falls by `each` when one goes."""

    module: str
    attribute: str
    each: int


@dataclass(frozen=True, slots=True)
class Tied:
    """Channels of one make. slots: where each of them lies, channel by channel. fixes: counts that the forward is
    known to use. refused: why none can go; empty if they may.
    """

    slots: Mapping[Slot, tuple[tuple[int, ...], ...]]
    fixes: tuple[Fix, ...] = ()
    refused: str = ""

    @property
    def width(self) -> int:
        return len(next(iter(self.slots.values())))


def read_channels(model: nn.Module, x: Tensor) -> list[Tied]:
    """The channels of `model`, in eval mode, as its forward of images x (1, C, H, W) ties them, in the order in which
    layers make them."""
    trace = _Trace(model)
    trace.run(x)
    return list(trace.tied())


class decomposed(ExitStack):  # noqa: N801 - a context manager that reads as one
    """Within it attention runs as matrix products and a softmax, in no fused kernel."""

    def __enter__(self) -> decomposed:
        super().__enter__()
        self.enter_context(sdpa_kernel(SDPBackend.MATH))
        self.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        return self


_MOVES = frozenset({
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "slice", "select"),
    *("squeeze", "unsqueeze", "split", "split_with_sizes", "unbind", "clone", "contiguous", "alias", "detach", "roll"),
    *("flip", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "index", "repeat"),
    *("index_select", "gather", "unfold", "im2col", "diagonal", "tril", "triu", "lift_fresh", "pixel_shuffle"),
    *("pixel_unshuffle", "channel_shuffle", "cat", "stack", "unsafe_split", "unsafe_chunk"),
})  # fmt: skip
_RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})
_COPIES = frozenset({"clone", "contiguous", "alias", "detach", "lift_fresh", "_to_copy"})
_SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_chunk"})
_REDUCTIONS = frozenset({
    *("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "linalg_vector_norm"),
    *("norm", "logsumexp", "prod", "argmax"),
})  # fmt: skip
_ALONG = frozenset({"_softmax", "_log_softmax", "cumsum"})
_SPATIAL = {
    **dict.fromkeys(["max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"], 2),
    **dict.fromkeys(["upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "grid_sampler_2d"], 2),
    **dict.fromkeys(["_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_adaptive_avg_pool3d"], 2),
}
_PRODUCTS = frozenset({"bmm", "baddbmm", "mm", "addmm"})
_EMPTY = frozenset({"zeros", "ones", "empty", "full", "new_zeros", "new_empty", "new_ones", "new_full", "zeros_like",
                    "ones_like", "empty_like", "full_like", "empty_strided"})  # fmt: skip
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(eq=False)
class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of everything that one forward pass computes."""

    model: nn.Module
    names: Names = field(default_factory=Names)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._of: Any = WeakIdKeyDictionary()  # tensor -> names of its shape
        self._turned: Any = WeakIdKeyDictionary()  # transposed weight -> (module, tensor)
        self._slots: list[tuple[Slot, Tensor]] = []  # and the names along that axis
        self._raw: dict[tuple[str, str], Tensor] = {}  # a name for each element
        self._bare: list[tuple[int, int]] = []  # ranges of those names
        self._makers: list[str] = []  # layers in the order in which they run
        self._wholes: dict[tuple[str, str], int] = {}  # module, attribute -> rows that one of its groups has
        self._ties: list[tuple[Tensor, bool]] = []  # (a, b, rest): of what lies at one b, all or nothing goes, where
        # names vary both ways, so that whole `a` may go; or, if True, wherever they vary along a
        self._running: list[str] = []
        self._tensors: dict[int, tuple[str, str]] = {}
        for module_name, module in self.model.named_modules():
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if tensor.is_floating_point() and name not in module._non_persistent_buffers_set:
                    self._tensors.setdefault(id(tensor), (module_name, name))

    def run(self, x: Tensor) -> None:
        handles = []
        for name, module in self.model.named_modules():
            if isinstance(module, _LAYERS):
                handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name)))
                handles.append(module.register_forward_hook(lambda *_: self._running.pop() and None))
        try:
            with torch.no_grad(), decomposed(), self:
                output = self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        made = self._of.get(output)
        if made is not None:
            self.names.freeze(made, "they are the network's outputs")

    # One operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | (kwargs or {})
        name = func._schema.name.split("::")[-1]
        in_place = name.endswith("_") and not name.endswith("__")
        name = name.rstrip("_") if in_place else name
        if in_place and name in ("zero", "fill", "copy"):
            self._write(args[0], self._get(given["src"]) if name == "copy" else None)
        elif name in _EMPTY:
            if isinstance(result, Tensor) and result.is_floating_point():
                self._of[result] = torch.zeros(result.shape, dtype=torch.float64)
        elif (found := self._apply(name, func, args, given, result)) is not None:
            if in_place:
                self._write(args[0], found)
            else:
                self._keep(result, found)
        return result

    def _get(self, tensor: Any) -> Tensor | None:
        """Names of a tensor, in its shape; None where it has none."""
        if not isinstance(tensor, Tensor):
            return None
        found: Tensor | None = self._of.get(tensor)
        if found is None and (where := self._tensors.get(id(tensor))) and tensor.numel() > 1:
            module = self.model.get_submodule(where[0])
            if not (isinstance(module, _LAYERS) and where[1] == "weight"):
                found = self._of[tensor] = self.names.new(tensor.numel()).view(tensor.shape)
                self._bare.append((int(found.min()), int(found.max()) + 1))
                self._raw[where] = found
        return found

    def _keep(self, result: Any, found: Any) -> None:
        if isinstance(result, Tensor):
            if isinstance(found, Tensor) and (result.is_floating_point() or result.is_complex()):
                self._of[result] = found
        elif isinstance(result, (tuple, list)):
            parts = found if isinstance(found, (tuple, list)) else [found] * len(result)
            for one, part in zip(result, parts, strict=False):
                if part is not None and isinstance(one, Tensor) and part.shape == one.shape:
                    self._keep(one, part)

    def _write(self, tensor: Tensor, names: Tensor | None) -> None:
        """What is written to a view is written to all of what it views."""
        names = torch.zeros((), dtype=torch.float64) if names is None else names
        names, old, base = names.expand(tensor.shape), self._of.get(tensor), tensor._base
        self._of[tensor] = names
        if (
            base is None
            or 0 in base.stride()
            or (old is not None and torch.equal(self.names.find(old), self.names.find(names)))
        ):
            return
        whole = torch.empty_strided(base.shape, base.stride(), dtype=torch.float64)
        known = self._get(base)
        whole.copy_(known) if known is not None else whole.zero_()
        whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - base.storage_offset()).copy_(names)
        self._of[base] = whole

    def _apply(self, name: str, func: Any, args: Any, given: dict[str, Any], result: Any) -> Any:
        rule: Callable[..., Any] | None = getattr(self, f"_do_{name.strip('_')}", None)
        if rule is not None:
            return rule(given, result)
        tensors = [t for value in args for t in ([value] if not isinstance(value, (list, tuple)) else value)]
        named = [n for t in tensors if (n := self._get(t)) is not None]
        if not named:
            return None
        first = self._get(args[0]) if isinstance(args[0], Tensor) else None
        try:
            if name in _COPIES:
                return first
            if name in _MOVES:
                return self._move(name, func, args, given, result)
            if first is not None and name in _REDUCTIONS:
                return self._reduce(first, given, result)
            if first is not None and name in _ALONG:
                return self._spread(first, [given["dim"]])
            if first is not None and name in _SPATIAL:
                shape = (result[0] if isinstance(result, tuple) else result).shape
                kept = first.dim() - 2
                vector = self.names.along(first, range(kept))
                return vector[..., None, None].expand(shape)
            if name in _PRODUCTS:
                left, right = [t for t in tensors if isinstance(t, Tensor)][-2:]
                return self._product(left, right, result)
        except (RuntimeError, KeyError, TypeError, IndexError, ValueError) as reason:
            pass_on_out_of_memory(reason)
            return self._give_up(name, named, result)
        shapes = [t.shape for t in tensors if isinstance(t, Tensor)]
        if isinstance(result, Tensor) and result.shape == _broadcast(shapes):
            return self._join(result.shape, named)
        return self._give_up(name, named, result)

    def _give_up(self, name: str, named: Sequence[Tensor], result: Any) -> Any:
        everything = torch.cat([torch.unique(self.names.find(n)) for n in named])
        one = self.names.along(everything[None], [0])
        self.names.freeze(one, f"{name} mixes them")
        outputs = result if isinstance(result, (tuple, list)) else [result]
        found = [one.view([1] * o.dim()).expand(o.shape) if isinstance(o, Tensor) else None for o in outputs]
        return found if isinstance(result, (tuple, list)) else found[0]

    # What moves data

    def _move(self, name: str, func: Any, args: Any, given: dict[str, Any], result: Any) -> Any:
        if name in ("cat", "stack"):
            parts = [self._get(t) for t in args[0]]
            moved = [torch.zeros(t.shape, dtype=torch.float64) if p is None else p for t, p in zip(args[0], parts)]  # noqa: B905
            return func(moved, *args[1:])
        names = self._get(args[0])
        if names is None:
            return None
        if name in _RESHAPES:
            moved_names = names.reshape(result.shape)
            self._note_split(names, moved_names)
            return moved_names
        if name == "constant_pad_nd":
            return func(names, given["pad"], 0.0)
        moved_names = func(names, *args[1:])
        if name in _SPLITS:
            self._note_parts(moved_names, given.get("dim", 0))
        return moved_names

    def _note_split(self, before: Tensor, after: Tensor) -> None:
        """A view that makes two axes of one: what goes must leave a rectangle."""
        at = 0
        for size in before.shape:
            start, product = at, 1
            while at < after.dim() and product < size:
                product *= after.shape[at]
                at += 1
            if product != size:
                return
            axes = [axis for axis in range(start, at) if after.shape[axis] > 1]
            for axis in range(len(axes) - 1):
                self._tie(after, axes[axis:])
            while at < after.dim() and after.shape[at] == 1 and size == 1:
                at += 1

    def _tie(self, names: Tensor, axes: list[int]) -> None:
        if self.names.vary(names, axes):
            moved = leading(names, axes)
            self._ties.append((moved.reshape(len(moved), math.prod(moved.shape[1 : len(axes)]), -1), False))

    def _note_parts(self, parts: Sequence[Tensor], axis: int) -> None:
        if len({part.shape for part in parts}) == 1 and len(parts) > 1:
            table = torch.stack([leading(part, [axis]).flatten(1) for part in parts])
            if self.names.vary(table, [0]):
                self._ties.append((table, True))

    # Arithmetic

    def _join(self, shape: torch.Size, named: Sequence[Tensor]) -> Tensor | None:
        """Names of elementwise arithmetic. What is spread over several channels belongs to none of them."""
        wide = [n.reshape([1] * (len(shape) - n.dim()) + list(n.shape)) for n in named]
        kept = []
        for own in wide:
            spread = [axis for axis in range(len(shape)) if own.shape[axis] == 1 < shape[axis]]
            if any(
                self.names.vary(other, axes)
                for other in wide
                if other is not own and (axes := [axis for axis in spread if other.shape[axis] > 1])
            ):
                self.names.freeze(own, "they are spread over other channels")
            else:
                kept.append(own)
        result: Tensor | None = None
        for own in kept:
            result = own.expand(shape) if result is None else self._pair(result, own.expand(shape))
        return result

    def _pair(self, a: Tensor, b: Tensor) -> Tensor:
        both = [axis for axis in range(a.dim()) if a.stride(axis) == b.stride(axis) == 0]
        small_a, small_b = narrowed(a, both), narrowed(b, both)
        self.names.unite(small_a, small_b)
        if bool((small_a != 0).all()):
            return a
        return torch.where(small_a != 0, small_a, small_b).expand(a.shape)

    def _do_glu(self, given: Mapping[str, Any], result: Any) -> Tensor | None:  # noqa: ARG002
        names = self._get(given["self"])
        return None if names is None else self._pair(*names.chunk(2, given.get("dim", -1)))

    def _reduce(self, names: Tensor, given: Mapping[str, Any], result: Any) -> Tensor | None:
        dims = given.get("dim")
        dims = list(range(names.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        gone = {d % names.dim() for d in dims}
        kept = [axis for axis in range(names.dim()) if axis not in gone]
        if self.names.vary(names, gone) and not self.names.vary(names, kept):
            return None  # a statistic over channels, of however many
        shape = (result[0] if isinstance(result, (tuple, list)) else result).shape
        return self.names.along(names, kept).reshape(shape)

    def _spread(self, names: Tensor, dims: Sequence[int]) -> Tensor:
        gone = {d % names.dim() for d in dims}
        kept = [axis for axis in range(names.dim()) if axis not in gone]
        found = self.names.along(names, kept)
        for axis in sorted(gone):
            found = found.unsqueeze(axis)
        return found.expand(names.shape)

    def _product(self, a: Tensor, b: Tensor, result: Tensor) -> Tensor | None:
        """A matrix product (..., n, k) x (..., k, m) of activations."""
        left, right = self._get(a), self._get(b)
        batches = range(a.dim() - 2)
        if left is not None and right is not None:
            if self._is_shared(left, batches) and not self._is_bare(right):
                left = None
            elif self._is_shared(right, batches) and not self._is_bare(left):
                right = None
        if left is None or right is None:
            named, axis = (left, -1) if left is not None else (right, -2)
            return None if named is None else self._spread(named, [axis]).narrow(axis, 0, 1).expand(result.shape)
        one = torch.stack([self.names.along(left, batches), self.names.along(right, batches)], -1)
        return self.names.along(one, batches)[..., None, None].expand(result.shape)

    def _is_bare(self, names: Tensor) -> bool:
        """Whether they come from bare parameters alone."""
        return all(any(start <= name < stop for start, stop in self._bare) for name in (names.amin(), names.amax()))

    def _is_shared(self, names: Tensor, batches: Iterable[int]) -> bool:
        """Whether a bare parameter multiplies every matrix of a batch, whose channels it thus does not hold."""
        return self._is_bare(names) and not self.names.vary(names, batches)

    # Layers

    def _do_t(self, given: Mapping[str, Any], result: Tensor) -> Tensor | None:
        where = self._tensors.get(id(given["self"]))
        if where is not None and given["self"].dim() == 2:
            self._turned[result] = where
            return None
        names = self._get(given["self"])
        return None if names is None else names.t()

    def _do_mm(self, given: Mapping[str, Any], result: Tensor) -> Tensor | None:
        return self._linear(given["self"], given["mat2"], None, result)

    def _do_addmm(self, given: Mapping[str, Any], result: Tensor) -> Tensor | None:
        return self._linear(given["mat1"], given["mat2"], given["self"], result)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor) -> Tensor | None:
        where = self._turned.get(weight)
        if where is None:
            made = self._product(x, weight, result)
            return made if bias is None or made is None else self._join(result.shape, [made])
        names = self._get(x)
        if names is not None and self.names.vary(names, [0]) and not self.names.vary(names, [1]):
            return names[:, :1].expand(result.shape)  # it mixes places, not channels
        read = torch.zeros(x.shape[1], dtype=torch.float64) if names is None else self.names.along(names, [1])
        made = self._make(where, result.shape[1])
        self._slots.append((Slot(where[0], where[1], 1), read))
        self._attach(bias, made)
        return made.expand(result.shape)

    def _make(self, where: tuple[str, str], count: int) -> Tensor:
        made = self.names.new(count)
        self._slots.append((Slot(where[0], where[1], 0), made))
        self._makers.append(where[0])
        return made

    def _attach(self, tensor: Tensor | None, names: Tensor) -> None:
        """`tensor` has one element for each of `names`."""
        if tensor is None:
            return
        where = self._tensors.get(id(tensor))
        if where is not None and tensor.dim() == 1:
            self._slots.append((Slot(where[0], where[1], 0), names))
        elif (own := self._get(tensor)) is not None and own.numel() == names.numel():
            self.names.unite(own.reshape(-1), names)

    def _do_convolution(self, given: Mapping[str, Any], result: Tensor) -> Any:
        x, weight = given["input"], given["weight"]
        names = self._get(x)
        where, module = self._tensors.get(id(weight)), self._running[-1] if self._running else None
        rest: list[Tensor] = []
        if where is None and module is not None:  # its weight is standardised, or scaled, before it is used
            layer = self.model.get_submodule(module)
            if getattr(layer, "weight", None) is not None and layer.weight.shape == weight.shape:
                where = (module, "weight")
                own = layer.named_parameters(recurse=False)
                rest = [p for n, p in own if n not in ("weight", "bias") and len(p) == len(weight)]
        if where is None or given["transposed"]:
            return None if names is None else self._give_up("a convolution with computed weights", [names], result)
        places = range(2, x.dim())
        if names is not None and self.names.vary(names, places):
            if given["groups"] == 1 and math.prod(weight.shape[2:]) == 1 and not self.names.vary(names, [1]):
                return names[:, :1].expand(result.shape)
            return self._give_up("a convolution along them", [names], result)
        read = torch.zeros(x.shape[1], dtype=torch.float64) if names is None else self.names.along(names, [1])
        made = self._convolve(where, read, len(weight), given["groups"])
        for gain in rest:
            scales = self._get(gain)
            if scales is not None:
                self.names.unite(scales.reshape(len(made), -1), made[:, None].expand(len(made), scales[0].numel()))
        self._attach(given.get("bias"), made)
        return made.view(1, -1, *([1] * len(places))).expand(result.shape)

    def _convolve(self, where: tuple[str, str], read: Tensor, outputs: int, groups: int) -> Tensor:
        """Names of the outputs of a convolution that reads names `read` along its inputs."""
        if groups == 1:
            self._slots.append((Slot(where[0], where[1], 1), read))
            return self._make(where, outputs)
        within = len(read) // groups
        table = read.view(groups, within)
        if groups < within:  # few wide groups: the same place of each goes
            self._slots.append((Slot(where[0], where[1], 1), self.names.along(table, [1])))
            made = self.names.new(outputs // groups).repeat(groups)
            self._makers.append(where[0])
        else:  # whole groups go
            own = self.names.along(table, [0])
            blind = own == 0
            if bool(blind.any()):
                own = torch.where(blind, self.names.new(groups), own)
                self.names.freeze(own[blind], f"{where[0]} reads the image group by group")
            made = own.repeat_interleave(outputs // groups)
            self._wholes[where[0], "groups"] = outputs // groups
        self._slots.append((Slot(where[0], where[1], 0), made))
        return made

    def _do_native_batch_norm(self, given: Mapping[str, Any], result: Any) -> Any:  # noqa: ARG002
        names = self._get(given["input"])
        if names is not None:
            self._norm(given, self.names.along(names, [1]))
        return names

    def _do_native_layer_norm(self, given: Mapping[str, Any], result: Any) -> Any:  # noqa: ARG002
        names = self._get(given["input"])
        if names is None:
            return None
        axes = range(-len(given["normalized_shape"]), 0)
        if len(axes) == 1:
            self._norm(given, self.names.along(names, axes))
            return names
        scales = [n for key in ("weight", "bias") if (n := self._get(given.get(key))) is not None]
        return self._join(names.shape, [names, *scales])

    _do_fused_rms_norm = _do_native_layer_norm

    def _do_native_group_norm(self, given: Mapping[str, Any], result: Any) -> Any:  # noqa: ARG002
        names = self._get(given["input"])
        if names is None:
            return None
        vector, groups = self.names.along(names, [1]), given["group"]
        if groups > 1:
            self.names.along(vector.view(groups, -1), [0])
            where = self._tensors.get(id(given.get("weight")))
            if where is None:
                self.names.freeze(names, "a group norm without weights counts them")
            else:
                self._wholes[where[0], "num_groups"] = len(vector) // groups
        self._norm(given, vector)
        return names

    def _norm(self, given: Mapping[str, Any], vector: Tensor) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            self._attach(given.get(key), vector)

    # What comes of it

    def tied(self) -> Iterator[Tied]:
        slots: dict[Slot, Tensor] = {}
        for slot, vector in self._slots:
            if slot in slots:  # a layer that runs twice
                self.names.unite(slots[slot], vector)
            slots.setdefault(slot, vector)
        for table, always in self._ties:
            if self.names.vary(table, [0]) and (always or self.names.vary(table, [1])):
                self.names.unite(table[:1].expand_as(table), table)
        for where, names in self._raw.items():
            slots |= self._axis_of(where, names)
        roots = {slot: self.names.find(vector).long().tolist() for slot, vector in slots.items()}
        places: dict[int, dict[Slot, list[int]]] = {}
        for slot, row in roots.items():
            for index, name in enumerate(row):
                if name:
                    places.setdefault(name, {}).setdefault(slot, []).append(index)
        yield from self._alike(places, roots)

    def _axis_of(self, where: tuple[str, str], names: Tensor) -> dict[Slot, Tensor]:
        """The axis of a bare parameter along which its channels lie."""
        found = self.names.find(names)
        for axis in range(found.dim()):
            rows = found.movedim(axis, 0).flatten(1) if found.dim() > 1 else found[:, None]
            if len(rows) > 1 and bool((rows == rows[:, :1]).all()) and len(torch.unique(rows[:, 0])) > 1:
                return {Slot(where[0], where[1], axis): names.movedim(axis, 0).reshape(len(rows), -1)[:, 0]}
        self.names.freeze(found, f"{'.'.join(filter(None, where))} holds them in a way that can't be cut")
        return {}

    def _alike(self, places: Mapping[int, Mapping[Slot, list[int]]], roots: Mapping[Slot, list[int]]) -> Iterator[Tied]:
        """Channels that lie in the same slots, as many places in each, together."""
        layers = {name for name, module in self.model.named_modules() if isinstance(module, _LAYERS)}
        layers |= set(self._makers)
        made: dict[Any, list[Mapping[Slot, list[int]]]] = {}
        reasons = self.names.reasons()
        for name, where in places.items():
            if any(slot.module in layers and slot.axis == 0 and slot.tensor.endswith("weight") for slot in where):
                key = (frozenset((slot, len(indices)) for slot, indices in where.items()), reasons.get(name, ""))
                made.setdefault(key, []).append(where)
        order = {name: position for position, name in enumerate(dict.fromkeys(self._makers))}
        found = []
        for (_, reason), channels in made.items():
            slots = {slot: tuple(tuple(channel[slot]) for channel in channels) for slot in channels[0]}
            whole = any(len(roots[slot]) == len(rows[0]) for slot, rows in slots.items())
            refused = reason or ("they all depend on each other" if whole or len(channels) == 1 else "")
            found.append(Tied(slots, self._counts(slots), refused))
        last = len(order)
        yield from sorted(found, key=lambda tied: min(order.get(slot.module, last) for slot in tied.slots))

    def _counts(self, slots: Mapping[Slot, Sequence[Sequence[int]]]) -> tuple[Fix, ...]:
        sizes = Counter({slot.module: len(rows[0]) for slot, rows in slots.items() if slot[1:] == ("weight", 0)})
        return tuple(
            Fix(module, attribute, sizes[module] // rows)
            for (module, attribute), rows in self._wholes.items()
            if sizes[module]
        )


def _broadcast(shapes: Sequence[torch.Size]) -> torch.Size | None:
    try:
        return torch.Size(np.broadcast_shapes(*shapes))
    except ValueError:
        return None
