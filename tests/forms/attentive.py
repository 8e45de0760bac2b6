"""Attention, recurrence and layers of computed weights, each the smallest: three classes, (N, 3, 16, 16)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

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


class Tokens(nn.Module):
    """Patches of 4x4 pixels as tokens with positions, blocks, and a head on their mean."""

    def __init__(self, *blocks: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 16, width) * 0.1)
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


class Mlp(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Attention(nn.Module):
    """Heads from one projection, softmax written out."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(n, t, c))


class Fused(nn.Module):
    """Separate projections, scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(2, (4, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Multihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]


class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        return x + self.out(q @ (k.transpose(1, 2) @ v) / (q @ k.sum(1)[..., None]))


class Relative(nn.Module):
    """A table of biases, looked up by an index that is a buffer."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.table = Attention(), nn.Parameter(torch.randn(31, 1) * 0.1)
        place = torch.arange(16)
        self.register_buffer("index", place[:, None] - place + 15)
        self.mix = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.index.reshape(-1)].view(16, 16).softmax(-1)
        return self.inner(x) + self.mix(bias @ x)


class ClassToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block, self.mlp = nn.Conv2d(3, 16, 4, 4), Attention(), Mlp()
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16) * 0.1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.mlp(self.block(x))[:, 0])


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down, self.mlp = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x + self.down(F.gelu(self.up(self.norm(x).transpose(1, 2)))).transpose(1, 2))


class SpatialGate(nn.Module):
    """gMLP: half of the channels gate the others along the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.mix, self.down = (
            nn.Linear(16, 32),
            nn.LayerNorm(16),
            nn.Linear(16, 16),
            nn.Linear(16, 16),
        )

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.up(x)).chunk(2, -1)
        return x + self.down(u * self.mix(self.norm(v).transpose(1, 2)).transpose(1, 2))


class Swiglu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate, self.up, self.down = (
            nn.LayerNorm(16),
            nn.Linear(16, 24),
            nn.Linear(16, 24),
            nn.Linear(24, 16),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def attention() -> nn.Module:
    return Tokens(Attention(), Mlp())


def attention_fused() -> nn.Module:
    return Tokens(Fused(), Mlp())


def attention_multihead() -> nn.Module:
    return Tokens(Multihead(), Mlp())


def attention_linear() -> nn.Module:
    return Tokens(LinearAttention(), Mlp())


def attention_relative() -> nn.Module:
    return Tokens(Relative(), Mlp())


def encoder_layer() -> nn.Module:
    return Tokens(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True))


def mlp_mixer() -> nn.Module:
    return Tokens(Mixer(), Mixer())


def gated_mlp() -> nn.Module:
    return Tokens(SpatialGate(), Swiglu())


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(12, 12, 5, padding=2, groups=12), nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)
        self.gamma = nn.Parameter(torch.full((12,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return classifier(nn.Conv2d(3, 12, 2, 2), ConvNext(), ConvNext(), channels=12)


class Recurrent(nn.Module):
    """Rows of the image one after the other; the last state is classified."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], *, both: bool = False) -> None:
        super().__init__()
        self.stem = conv(3, 4, stride=2)
        self.layer = kind(32, 12, batch_first=True, bidirectional=both)
        self.head = nn.Linear(24 if both else 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.stem(x).permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM)


def gru_both_ways() -> nn.Module:
    return Recurrent(nn.GRU, both=True)


class RecurrentCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cell, self.head = conv(3, 8, stride=4), nn.GRUCell(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 12)
        for token in self.stem(x).flatten(2).unbind(2):
            state = self.cell(token, state)
        return self.head(state)


def transposed() -> nn.Module:
    return classifier(conv(3, 8, stride=2), nn.ConvTranspose2d(8, 12, 4, 2, 1), nn.ReLU(), conv(12, 16), channels=16)


class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.offset, self.conv = (
            conv(3, 8),
            nn.Conv2d(8, 18, 3, padding=1),
            DeformConv2d(8, 12, 3, padding=1),
        )
        self.tail = classifier(conv(12, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.tail(self.conv(x, self.offset(x)))


def local_response() -> nn.Module:
    return classifier(conv(3, 8), nn.LocalResponseNorm(3), conv(8, 16), nn.LocalResponseNorm(5), channels=16)


class Blur(nn.Module):
    """A fixed kernel, the same for every channel, expanded when it runs."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", torch.outer(line, line) / 16, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel.expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, stride=2, groups=x.shape[1])


def blur_pool() -> nn.Module:
    return classifier(conv(3, 8), Blur(), conv(8, 16), channels=16)


class DynamicKernel(nn.Module):
    """Involution: a kernel for each place, computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernel = conv(3, 8), nn.Conv2d(8, 18, 1)
        self.tail = classifier(conv(8, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        patches = F.unfold(x, 3, padding=1).view(n, 2, c // 2, 9, h, w)
        return self.tail((patches * self.kernel(x).view(n, 2, 1, 9, h, w)).sum(3).view(n, c, h, w))


class Experts(nn.Module):
    """CondConv: the kernel is a mixture that each image chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.route = conv(3, 8), nn.Linear(8, 2)
        self.weight = nn.Parameter(torch.randn(2, 12, 8, 3, 3) * 0.1)
        self.tail = classifier(conv(12, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        mixed = torch.einsum("ne,eoikl->noikl", self.route(x.mean((2, 3))).softmax(1), self.weight)
        y = F.conv2d(x.reshape(1, n * c, h, w), mixed.flatten(0, 1), padding=1, groups=n)
        return self.tail(y.view(n, 12, h, w).relu())


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Sequential(conv(3, 4, stride=4), nn.Flatten(), nn.Linear(64, 6))
        self.tail = classifier(conv(3, 8), conv(8, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(0.1 * self.where(x).view(-1, 2, 3) + torch.eye(2, 3), list(x.shape), align_corners=False)
        return self.tail(F.grid_sample(x, grid, align_corners=False))


class ComplexFilter(nn.Module):
    """GFNet: a learned filter of frequencies, complex."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(8, 16, 9, dtype=torch.complex64) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * self.filter, s=x.shape[2:], norm="ortho")


def complex_parameter() -> nn.Module:
    return classifier(conv(3, 8), ComplexFilter(), conv(8, 16), channels=16)


def fourier() -> nn.Module:
    mixing = Apply(lambda x: torch.fft.fft2(x).real * 0.1)
    return classifier(conv(3, 8), mixing, conv(8, 16), channels=16)


def shifted() -> nn.Module:
    def shift(x: Tensor) -> Tensor:
        return torch.cat([x[:, :4].roll(1, 2), x[:, 4:8].roll(-1, 2), x[:, 8:]], 1)

    return classifier(conv(3, 12), Apply(shift), conv(12, 16, 1), channels=16)


def group_norm() -> nn.Module:
    return classifier(nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.ReLU(), conv(12, 16), channels=16)


def instance_norm() -> nn.Module:
    return classifier(nn.Conv2d(3, 12, 3), nn.InstanceNorm2d(12, affine=True), nn.ReLU(), conv(12, 16), channels=16)


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    factory.__name__: factory
    for factory in (
        *(attention, attention_fused, attention_multihead, attention_linear, attention_relative, encoder_layer),
        *(ClassToken, mlp_mixer, gated_mlp, convnext, lstm, gru_both_ways, RecurrentCell, transposed, Deformable),
        *(local_response, blur_pool, DynamicKernel, Experts, SpatialTransformer, complex_parameter, fourier, shifted),
        *(group_norm, instance_norm),
    )
}
SHAPES = dict.fromkeys(FACTORIES, (3, 16, 16))
