"""Networks of which channels can go, and what tests ask of them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeoe.pruning.groups import Group
from edgeoe.pruning.prune import Pruned
from edgeoe.pruning.verify import prunable_groups

SHAPE = (3, 16, 16)
Network = Callable[[str], nn.Module]
Prune = Callable[..., Pruned]
ShapeOf = Callable[[str], tuple[int, int, int]]


def images(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(7))


def groups_of(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> dict[str, Group]:
    return {group.name: group for group in prunable_groups(model, shape=shape)}


def deep(*blocks: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).eval()  # fmt: skip


class Attention(nn.Module):
    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(8, 3 * heads * size), nn.Linear(heads * size, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = x.flatten(2).mT
        q, k, v = self.qkv(y).reshape(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + y.mT.reshape(b, -1, h, w)


class Counts(nn.Module):
    """A forward that counts its channels with its own number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.one, self.two = nn.Conv2d(8, width, 1), nn.Conv2d(width, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return x + self.two(torch.relu(self.one(x)).reshape(b, self.width, h, w))
