"""Networks as a user might bring them, three classes, images (N, 3, 16, 16).

`residual`: a zero-padded shortcut (option A), a depthwise convolution and squeeze-excite.
`chain`: convolutions and a classifier, no shortcuts. `scalar`: answers with no logits.
`rigid`: one convolution whose channels the forward counts, so that nothing can be pruned.
`scaled`: a residual branch times a bare parameter per channel, as ConvNeXt has it.
`several`: answers with an auxiliary head beside its logits; one weight is normed by a hook, one by a parametrisation.
`stages`: four residual blocks that can be dropped, two of a kind, and a strided convolution between the kinds.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class Excite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 2, 1)
        self.expand = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.wide = conv(8, 16)
        self.depthwise = conv(16, 16, groups=16)
        self.excite = Excite(16)
        self.narrow = conv(16, 8, kernel=1)
        self.down = conv(8, 16, stride=2)
        self.last = conv(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.narrow(self.excite(F.relu(self.depthwise(F.relu(self.wide(x))))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = F.relu(self.last(F.relu(self.down(x))) + shortcut)
        return self.head(x.mean((2, 3)))


class Rigid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(x.view(len(x), 4, 16 * 16).mean(2))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.inner = conv(8, 16)
        self.outer = conv(16, 8)
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, 8).view(8, 1, 1))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.gamma * self.outer(F.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


class Basic(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = conv(channels, channels)
        self.two = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.two(F.relu(self.one(x))))


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.early = nn.Sequential(Basic(8), Basic(8))
        self.down = conv(8, 16, stride=2)
        self.late = nn.Sequential(Basic(16), Basic(16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(F.relu(self.stem(x)))
        x = self.late(F.relu(self.down(x)))
        return self.head(x.mean((2, 3)))


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.wide = nn.utils.spectral_norm(nn.Conv2d(8, 16, 3, padding=1))
        self.narrow = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 8, 3, padding=1))
        self.aux, self.head = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.narrow(F.relu(self.wide(F.relu(self.stem(x)))))).mean((2, 3))
        return {"aux": self.aux(x), "logits": self.head(x)}


def several() -> nn.Module:
    return Several()


def stages() -> nn.Module:
    return Stages()


def scaled() -> nn.Module:
    return Scaled()


def residual() -> nn.Module:
    return Residual()


def chain() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 16), nn.ReLU(), conv(16, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def rigid() -> nn.Module:
    return Rigid()


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean() * self.weight


def scalar() -> nn.Module:
    return Scalar()
