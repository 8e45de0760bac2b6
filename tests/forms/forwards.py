"""Networks whose forward does something out of the ordinary: three classes, images (N, 3, 16, 16)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["FACTORIES", "SHAPES"]


def conv(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def classifier(*body: nn.Module, channels: int) -> nn.Sequential:
    """`body`, whose output is (N, channels, H, W), then a last convolution, pooling and a linear head."""
    return nn.Sequential(*body, conv(channels, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


class Apply(nn.Module):
    """A function of a tensor, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Add(nn.Module):
    """x + f(x)."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Body(nn.Module):
    """Three convolutions and a head; `forward` of subclasses differs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = conv(3, 8), nn.Linear(16, 3)
        self.two = nn.Sequential(conv(8, 16, stride=2), conv(16, 16))

    def features(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)).mean((2, 3))


# What training mode or more outputs change


class AuxiliaryHead(Body):
    """GoogLeNet and Inception: a tuple in training mode, logits in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        one = self.one(x)
        logits = self.head(self.two(one).mean((2, 3)))
        return (logits, self.aux(one.mean((2, 3)))) if self.training else logits


class NeedsTargets(Body):
    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        logits = self.head(self.features(x))
        if self.training:
            assert targets is not None
            return F.cross_entropy(logits, targets)
        return logits


class CacheOfEval(Body):
    """TinyViT: train() forgets a buffer that eval() computes."""

    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4))
        self.index = [0, 1, 2, 3] * 4

    def train(self, mode: bool = True) -> CacheOfEval:
        super().train(mode)
        if mode and hasattr(self, "cache"):
            del self.cache
        elif not mode:
            self.register_buffer("cache", self.bias[self.index].detach(), persistent=False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x) + (self.bias[self.index] if self.training else self.cache))


class CacheOfForward(Body):
    """LeViT: the first forward in eval mode caches, and train() forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.index = nn.Parameter(torch.randn(4)), [0, 1, 2, 3] * 4
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> CacheOfForward:
        super().train(mode)
        self.cache = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.head(self.features(x) + self.bias[self.index])
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias[self.index]
        return self.head(self.features(x) + self.cache["bias"])


class TrainReturnsNothing(Body):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class StochasticDepth(Body):
    def __init__(self) -> None:
        super().__init__()
        self.inner = conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x))
        y = self.inner(x)
        if self.training:
            y = y * torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.5)) / 0.5
        return self.head((x + y).mean((2, 3)))


def dropout() -> nn.Module:
    return classifier(conv(3, 8), nn.Dropout2d(0.5), conv(8, 16), nn.Dropout(0.5), channels=16)


# Control flow, side effects


class BranchesOnShape(Body):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > 8:
            x = F.avg_pool2d(x, 2)
        return self.head(self.features(x))


class BranchesOnValues(Body):
    """An early exit, taken or not by what the batch holds."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        if bool(y.mean() > 1e6):
            return y[:, :3]
        return self.head(y)


class FixedBatch(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).view(2, 16))


class RandomForward(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x + torch.randn_like(x)))


class CountsCalls(Body):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.features(x))


def in_place() -> nn.Module:
    def half(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :4].mul_(0.5).add_(1)
        return x

    return classifier(conv(3, 8), Apply(half), nn.Conv2d(8, 16, 3), nn.ReLU(inplace=True), channels=16)


class ThroughNumpy(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.from_numpy(self.features(x).detach().numpy()))


class WithoutGradient(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.features(x)
        return self.head(y)


class AllWithoutGradient(Body):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Detached(Body):
    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        return self.head(self.two(one.detach()).mean((2, 3)))


class ThroughData(Body):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head(y * y.data.sigmoid())


class Checkpointed(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.features, x, use_reentrant=False))


class Autocast(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            return self.head(self.features(x))


class Straight(torch.autograd.Function):
    """The sign, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Binary(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(Straight.apply(self.one(x) - 0.5)).mean((2, 3)))


class RemembersBatch(Body):
    """Keeps what it saw last as an attribute, for a loss elsewhere."""

    seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.features(x)
        return self.head(self.seen)


class ExtraArguments(Body):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        y = self.features(x) * scale
        return self.head(y if mask is None else y * mask)


class SharedModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = conv(3, 8), Add(conv(8, 12), conv(12, 8))
        self.tail = classifier(conv(8, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.block(self.block(self.stem(x))))


class Siamese(nn.Module):
    """The image and its mirror through one network."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(conv(3, 8), conv(8, 16), conv(16, 16)), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.body(x).mean((2, 3)), self.body(x.flip(3)).mean((2, 3))], 1))


class Momentum(Body):
    """A slow copy that forward updates, as in self-supervised training."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = copy.deepcopy(self.one)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.one.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
        return self.head(self.two(self.one(x) + self.slow(x)).mean((2, 3)))


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    factory.__name__: factory
    for factory in (
        *(AuxiliaryHead, NeedsTargets, CacheOfEval, CacheOfForward, TrainReturnsNothing, StochasticDepth, dropout),
        *(BranchesOnShape, BranchesOnValues, FixedBatch),
        *(RandomForward, CountsCalls, in_place, ThroughNumpy, WithoutGradient, AllWithoutGradient, Detached),
        *(ThroughData, Checkpointed, Autocast, Binary, RemembersBatch, ExtraArguments, SharedModule, Siamese, Momentum),
    )
}
SHAPES = dict.fromkeys(FACTORIES, (3, 16, 16))
