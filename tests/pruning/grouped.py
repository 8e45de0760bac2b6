"""Networks of which channels can go, and what tests ask of them."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgeoe.pruning.groups import Group
from edgeoe.pruning.prune import Pruned
from edgeoe.pruning.removal import without_channels
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


def refusals_of(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> dict[str, str]:
    """{group: why it is refused} of those that are."""
    return {name: group.refused for name, group in groups_of(model, shape).items() if group.refused}


def without(model: nn.Module, name: str, units: Sequence[int], shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    """`model` without those units of a group, having checked that removing them does what zeroing them does."""
    groups = groups_of(model, shape)
    assert not groups[name].refused
    student = without_channels(model, groups.values(), {name: tuple(units)})
    zeroed = copy.deepcopy(model)
    for slot, rows in groups[name].slots.items():
        tensor = getattr(zeroed.get_submodule(slot.module), slot.tensor)
        tensor.data.index_fill_(slot.axis, torch.tensor([index for unit in units for index in rows[unit]]), 0.0)
    with torch.no_grad():
        expected, got = zeroed(images(shape)), student(images(shape))
    assert not torch.allclose(expected, model(images(shape)), rtol=1e-3), "the units did something"
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    return student
