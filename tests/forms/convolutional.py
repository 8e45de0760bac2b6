"""Convolutional networks as papers have them, each the smallest of its kind: three classes, images (N, 3, 16, 16)."""

from __future__ import annotations

from collections.abc import Callable

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


class Add(nn.Module):
    """x + f(x), then an activation."""

    def __init__(self, *inner: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.after = nn.Sequential(*inner), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.inner(x))


class Concat(nn.Module):
    """Branches side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Apply(nn.Module):
    """A function of a tensor, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def basic_residual() -> nn.Module:
    block = Add(conv(8, 8), nn.Conv2d(8, 8, 3, padding=1), after=nn.ReLU())
    return classifier(conv(3, 8), block, conv(8, 16, stride=2), channels=16)


def bottleneck() -> nn.Module:
    block = Add(conv(16, 4, 1), conv(4, 4), nn.Conv2d(4, 16, 1), after=nn.ReLU())
    return classifier(conv(3, 16), block, Add(conv(16, 8, 1), nn.Conv2d(8, 16, 1)), channels=16)


def preactivation() -> nn.Module:
    def block() -> nn.Module:
        return Add(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), conv(12, 8, 1))

    return classifier(nn.Conv2d(3, 8, 3), block(), block(), channels=8)


class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.shortcut = conv(3, 8), conv(8, 16, stride=2), nn.Conv2d(8, 16, 1, 2)
        self.tail = classifier(conv(16, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.tail(self.inner(x) + self.shortcut(x))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.layers = nn.ModuleList(conv(8 + 6 * n, 6) for n in range(4))
        self.tail = classifier(conv(32, 16, 1), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.tail(torch.cat(features, 1))


def inception() -> nn.Module:
    branches = Concat(
        conv(8, 6, 1),
        nn.Sequential(conv(8, 4, 1), conv(4, 8)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(8, 6, 1)),
    )
    return classifier(conv(3, 8), branches, conv(20, 16), channels=16)


def shuffle() -> nn.Module:
    return classifier(
        conv(3, 8),
        conv(8, 16, 1, groups=2),
        nn.ChannelShuffle(2),
        conv(16, 16, groups=16),
        conv(16, 16, 1),
        channels=16,
    )


class SplitShuffle(nn.Module):
    """ShuffleNet V2: half of the channels pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = conv(3, 16), nn.Sequential(conv(8, 8, 1), conv(8, 8, groups=8), conv(8, 8, 1))
        self.tail = classifier(conv(16, 24, 1), channels=24)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.inner(right)], 1)
        n, c, h, w = x.shape
        return self.tail(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class Excite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(F.relu(self.down(x.mean((2, 3))))).sigmoid()[:, :, None, None]


def squeeze_excite() -> nn.Module:
    return classifier(conv(3, 16), Excite(16), conv(16, 16), Excite(16), channels=16)


def efficient_channel_attention() -> nn.Module:
    class Eca(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x.mean((2, 3))[:, None])
            return x * y.transpose(1, 2).sigmoid()[..., None]

    return classifier(conv(3, 16), Eca(), conv(16, 16), channels=16)


def gated_convolution() -> nn.Module:
    return classifier(conv(3, 8), nn.Conv2d(8, 24, 3), nn.GLU(1), conv(12, 16), channels=16)


def inverted_residual() -> nn.Module:
    block = Add(conv(8, 24, 1), conv(24, 24, groups=24), Excite(24), nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8))
    return classifier(conv(3, 8), block, conv(8, 16, stride=2), channels=16)


def fire() -> nn.Module:
    return classifier(conv(3, 16), conv(16, 4, 1), Concat(conv(4, 8, 1), conv(4, 8)), conv(16, 16), channels=16)


def grouped() -> nn.Module:
    return classifier(conv(3, 16), conv(16, 16, groups=4), conv(16, 16, groups=2), conv(16, 16, 1), channels=16)


def depthwise_multiplier() -> nn.Module:
    return classifier(conv(3, 8), conv(8, 16, groups=8), conv(16, 16, 1), channels=16)


def dilated() -> nn.Module:
    branches = Concat(*(nn.Conv2d(8, 8, 3, padding=rate, dilation=rate) for rate in (1, 2, 4)))
    return classifier(conv(3, 8), branches, conv(24, 16, 1), channels=16)


def one_dimensional() -> nn.Module:
    lines = (
        nn.Conv1d(3, 16, 5, 2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3),
    )
    return nn.Sequential(nn.Flatten(2), *lines, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3))


def three_dimensional() -> nn.Module:
    layers = (nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 8, (1, 3, 3)), nn.Conv3d(8, 8, (1, 3, 3)))
    head = (nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(Apply(lambda x: x[:, None]), *layers, *head)


def pixel_shuffle() -> nn.Module:
    up = (nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2))
    return classifier(conv(3, 8, stride=2), *up, conv(8, 16), channels=16)


def space_to_depth() -> nn.Module:
    return classifier(conv(3, 6), nn.PixelUnshuffle(2), conv(24, 16), conv(16, 16), channels=16)


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(3, 8), conv(8, 16, stride=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.tail = classifier(conv(16, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        return self.tail(torch.cat([one, self.up(self.two(one))], 1))


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(3, 8), conv(8, 16, stride=2)
        self.sides = nn.ModuleList([nn.Conv2d(8, 12, 1), nn.Conv2d(16, 12, 1)])
        self.tail = classifier(conv(12, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        small = self.sides[1](self.two(one))
        return self.tail(self.sides[0](one) + F.interpolate(small, scale_factor=2.0))


def maxout() -> nn.Module:
    return classifier(conv(3, 8), nn.Conv2d(8, 24, 3), Apply(lambda x: torch.maximum(*x.chunk(2, 1))), channels=12)


def concatenated_relu() -> nn.Module:
    return classifier(conv(3, 8), Apply(lambda x: torch.cat([x, -x], 1).relu()), conv(16, 16), channels=16)


def prelu() -> nn.Module:
    return classifier(nn.Conv2d(3, 12, 3), nn.PReLU(12), nn.Conv2d(12, 16, 3), nn.PReLU(), channels=16)


def with_coordinates() -> nn.Module:
    def coordinates(x: Tensor) -> Tensor:
        line = torch.linspace(-1, 1, x.shape[3]).expand(len(x), 1, x.shape[2], -1)
        return torch.cat([x, line, line.transpose(2, 3)], 1)

    return classifier(conv(3, 8), Apply(coordinates), conv(10, 16), channels=16)


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.change, self.gate = conv(3, 12), conv(12, 12), nn.Conv2d(12, 12, 1)
        self.tail = classifier(conv(12, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.gate(x).sigmoid()
        return self.tail(gate * self.change(x) + (1 - gate) * x)


def wide_pooling() -> nn.Module:
    pool = Apply(lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
    return nn.Sequential(conv(3, 8), conv(8, 16), conv(16, 16), pool, nn.Linear(32, 3))


def generalised_mean() -> nn.Module:
    class Gem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.tensor(3.0))

        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)

    return nn.Sequential(conv(3, 8), conv(8, 16), conv(16, 16), Gem(), nn.Linear(16, 3))


def bilinear_pooling() -> nn.Module:
    def outer(x: Tensor) -> Tensor:
        return torch.einsum("nchw,ndhw->ncd", x, x).flatten(1) / x[0, 0].numel()

    return nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 6), Apply(outer), nn.Linear(36, 3))


def flattened() -> nn.Module:
    return nn.Sequential(
        conv(3, 8, stride=2), conv(8, 8, stride=2), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 3)
    )


def convolutional_head() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), conv(8, 16), conv(16, 16), nn.Conv2d(16, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    factory.__name__: factory
    for factory in (
        *(basic_residual, bottleneck, preactivation, Projected, Dense, inception, shuffle, SplitShuffle),
        *(squeeze_excite, efficient_channel_attention, gated_convolution, inverted_residual, fire, grouped),
        *(depthwise_multiplier, dilated, one_dimensional, three_dimensional, pixel_shuffle, space_to_depth, Unet),
        *(Pyramid, maxout, concatenated_relu, prelu, with_coordinates, Highway, wide_pooling, generalised_mean),
        *(bilinear_pooling, flattened, convolutional_head),
    )
}
SHAPES = dict.fromkeys(FACTORIES, (3, 16, 16))
