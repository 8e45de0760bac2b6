"""A network from any source -> a classifier with plain weights: images in, logits out.

Some networks output more than logits (auxiliary heads, a distillation token, a dictionary, an object of Hugging Face),
and some compute a weight from several tensors (weight norm, spectral norm, masks). Both are normalised here, so that
all other code sees logits (N, K) and `weight`. Module names stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.prune import remove as remove_mask
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["describe_outputs", "only_logits", "plain_weights"]


def only_logits(model: nn.Module, *, classes: int) -> nn.Module:
    """`model`, in place, with its logits as its only output.

    Its logits are the output named `logits`, else the first of shape (N, classes), those named aux last, else the first
    of shape (N, anything). A model without any such output keeps its outputs.

    classes: number of classes.
    """
    model.register_forward_hook(_OnlyLogits(classes))
    return model


@dataclass(frozen=True, slots=True)
class _OnlyLogits:
    """A forward hook that returns the logits alone; deep copies and pickles of the model keep it."""

    classes: int

    def __call__(self, module: nn.Module, images: Any, output: Any) -> Tensor | None:  # noqa: ARG002 - torch's signature
        if isinstance(output, Tensor):
            return None
        named = _find_logits(output, classes=self.classes)
        return None if named is None else named[1]


def describe_outputs(model: nn.Module, x: Tensor) -> str:
    """Which of several outputs for images x (N, C, H, W) is taken as logits; "" if there is only one.

    model: as returned by `only_logits`.
    """
    output = model.forward(x)
    hooks = [hook for hook in model._forward_hooks.values() if isinstance(hook, _OnlyLogits)]
    if isinstance(output, Tensor) or not hooks:
        return ""
    logits = _find_logits(output, classes=hooks[0].classes)
    if logits is None:
        return ""
    several = [f"{name} {tuple(tensor.shape)}" for name, tensor in _tensors(output)]
    if len(several) < 2:
        return ""
    return f"{', '.join(several)}. Taken as logits: {logits[0]}. For another, let forward return that one alone"


def _find_logits(output: Any, *, classes: int) -> tuple[str, Tensor] | None:
    """(name, logits): which tensor within `output` is the logits; None if none is."""
    several = [(name, tensor) for name, tensor in _tensors(output) if tensor.dim() == 2 and tensor.is_floating_point()]
    called = [one for one in several if one[0].split(".")[-1] == "logits"]
    fitting = sorted((one for one in several if one[1].shape[1] == classes), key=lambda one: "aux" in one[0].lower())
    return next(iter([*called, *fitting, *several]), None)


def _tensors(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor within `output`, by the keys, fields, attributes and indices that lead there: "aux[0]"."""
    if isinstance(output, Tensor):
        yield name, output
        return
    parts: Mapping[Any, Any] = {}
    if isinstance(output, Mapping):
        parts = output
    elif hasattr(output, "_fields"):  # a named tuple
        parts = dict(zip(output._fields, output, strict=True))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        parts = {f"[{index}]": value for index, value in enumerate(output)}
    elif hasattr(output, "__dict__"):
        parts = vars(output)
    for key, value in parts.items():
        dot = "." if name and not str(key).startswith("[") else ""
        yield from _tensors(value, f"{name}{dot}{key}")


def plain_weights(model: nn.Module) -> nn.Module:
    """`model`, in place, in eval mode, with every weight that is computed from other tensors replaced by its value.

    Weight norm, spectral norm and masks of torch.nn.utils compute weights, in their old form (hooks) and as
    parametrisations. The network computes the same; training then updates the weight itself.
    """
    for module in list(model.eval().modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                for key, leftover in list(module._load_state_dict_pre_hooks.items()):  # torch forgets it
                    if isinstance(getattr(leftover, "hook", leftover), SpectralNormLoadStateDictPreHook):
                        del module._load_state_dict_pre_hooks[key]
            elif isinstance(hook, BasePruningMethod):
                remove_mask(module, hook._tensor_name)  # type: ignore[no-untyped-call, unused-ignore]
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)  # noqa: S101 - what being parametrised means
            for name in list(module.parametrizations):
                _replace(module, name)
    return model


@torch.no_grad()
def _replace(module: nn.Module, name: str) -> None:
    """Replace the parametrised tensor `name` of `module` by its value: a parameter if it was computed from one."""
    value = getattr(module, name).detach().clone()
    was_parameter = any(True for _ in module.parametrizations[name].parameters(recurse=False))  # type: ignore[index, union-attr]
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    if was_parameter:
        delattr(module, name)
        module.register_parameter(name, nn.Parameter(value))
