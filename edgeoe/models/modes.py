"""Eval mode of networks that cache, in eval mode, tensors which they compute from their weights.

TinyViT computes its attention biases in `eval()`, LeViT in the first forward after; both drop them in `train()`. After
weights have changed, such a cache holds the tensors of the weights before.
"""

from __future__ import annotations

from torch import nn

__all__ = ["eval_afresh", "may_cache"]


def may_cache(model: nn.Module) -> bool:
    """Whether a module of `model` does something of its own when the mode changes."""
    return any(type(module).train is not nn.Module.train for module in model.modules())


def eval_afresh(model: nn.Module) -> nn.Module:
    """`model`, in place, in eval mode without what it cached there before."""
    if may_cache(model):
        model.train()
    return model.eval()
