"""Eval mode of networks that cache there what they compute from weights."""

from typing import Any

import torch
from torch import Tensor, nn

from edgeoe.models.modes import eval_afresh, may_cache


class InEval(nn.Module):
    """As TinyViT: `eval()` computes the cache."""

    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def train(self, mode: bool = True) -> "InEval":
        super().train(mode)
        if not mode and not hasattr(self, "cache"):
            self.cache = 2 * self.weight.detach()
        elif mode and hasattr(self, "cache"):
            del self.cache
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x * (2 * self.weight if self.training else self.cache)


def test_a_cache_of_older_weights_is_dropped() -> None:
    inner = InEval()
    model = nn.Sequential(inner).eval()
    inner.weight.data.fill_(5)
    assert model.eval()(torch.ones(3))[0] == 2
    assert eval_afresh(model) is model
    assert not any(module.training for module in model.modules())
    assert model(torch.ones(3))[0] == 10


def test_a_network_without_caches_never_enters_training_mode() -> None:
    class Watched(nn.Module):
        modes: list[bool] = []  # noqa: RUF012 - shared on purpose

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "training":
                self.modes.append(value)
            super().__setattr__(name, value)

    model = Watched()
    assert not may_cache(model)
    Watched.modes.clear()
    eval_afresh(model)
    assert Watched.modes == [False]
    assert may_cache(nn.Sequential(InEval()))
