"""Networks whose answers or heads are out of the ordinary: three classes, images (N, 3, 16, 16)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class Body(nn.Module):
    """Three convolutions and a head; `forward` of subclasses differs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = conv(3, 8), nn.Linear(16, 3)
        self.two = nn.Sequential(conv(8, 16, stride=2), conv(16, 16))

    def features(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)).mean((2, 3))


# More than logits


class DictOutput(Body):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x)
        return {"features": features, "logits": self.head(features)}


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class ObjectOutput(Body):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.head(self.features(x))
        return Output(logits, None if labels is None else F.cross_entropy(logits, labels))


class TupleOutput(Body):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.head(features), features


class Probabilities(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).softmax(1)


class LogProbabilities(Body):
    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.head(self.features(x)), 1)


# Heads that are no linear layer


class CosineHead(Body):
    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(self.features(x)), F.normalize(self.head.weight))


class PrototypeHead(Body):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()  # type: ignore[assignment]
        self.prototypes = nn.Parameter(torch.randn(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.features(x), self.prototypes)


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(classifier(conv(3, 8), conv(8, 16), channels=16) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


class TwoHeads(Body):
    """Deit distilled: the mean of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return (self.head(features) + self.other(features)) / 2


class DeepHead(Body):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ScaledHead(Body):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)) / self.temperature


# Batches whose rows mix


class MixesMean(Body):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head(y - y.mean(0))


def mixes_statistics() -> nn.Module:
    norm = nn.BatchNorm2d(12, track_running_stats=False)
    return classifier(nn.Conv2d(3, 12, 3), norm, nn.ReLU(), conv(12, 16), channels=16)


class MixesSoftmax(Body):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head(y * y.softmax(0))


class MixesDeviation(Body):
    def __init__(self) -> None:
        super().__init__()
        self.deviation = Apply(lambda y: y / (1e-3 + torch.std(y, 0, unbiased=False)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deviation(self.features(x)))


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    factory.__name__: factory
    for factory in (
        *(DictOutput, ObjectOutput, TupleOutput, Probabilities, LogProbabilities, CosineHead, PrototypeHead, Ensemble),
        *(TwoHeads, DeepHead, ScaledHead, MixesMean, mixes_statistics, MixesSoftmax, MixesDeviation),
    )
}
SHAPES = dict.fromkeys(FACTORIES, (3, 16, 16))
