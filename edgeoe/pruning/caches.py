"""What networks compute from their parameters once and keep, such as tables of attention biases in eval mode."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["without_caches"]


@torch.no_grad()
def without_caches(model: nn.Module) -> nn.Module:
    """`model`, in place, without what was computed from its parameters before they became what they are.

    A change to the other mode and back computes anew what a network keeps in one mode alone. Dictionaries whose name
    says that they are caches are emptied.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train(not model.training)
    model.train(not model.training)
    for module, training in modes:
        module.training = training
        for name, value in vars(module).items():
            if "cache" in name and isinstance(value, dict):  # as in timm's LeViT
                value.clear()
    return model
