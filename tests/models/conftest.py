"""Networks whose batch norms have seen something, and one of torchvision's, pruned once for many tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeoe.models.pruning import Pruned, prune_channels
from edgeoe.models.teacher import TeacherSource

Shape = tuple[int, int, int]


def lived_in(model: nn.Module) -> nn.Module:
    """`model`, frozen and in eval mode, its batch norms with random statistics, scales and shifts."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def shape_of() -> Callable[[str], Shape]:
    """`shape_of(name)`: (C, H, W) that the network takes; published ones as small as their strides allow."""

    def shape(name: str) -> Shape:
        side = 160 if name == "timm:test_vit" else 64 if ":" in name else 16
        return (3, side, side)

    return shape


@pytest.fixture(scope="session")
def network(teacher_file: Path) -> Callable[[str], nn.Module]:
    """`network(name)`: one of networks.py, timm: or torchvision:, three classes, random but always the same."""

    def build(name: str) -> nn.Module:
        torch.manual_seed(0)
        return lived_in(TeacherSource.parse(name if ":" in name else f"{teacher_file}:{name}").build(3))

    return build


@pytest.fixture(scope="session")
def pruned(network: Callable[[str], nn.Module], shape_of: Callable[[str], Shape]) -> Callable[..., Pruned]:
    """`pruned(name)`: that network, cut to half of its MACs unless told; made once a session, so read only."""
    made: dict[tuple[str, float], Pruned] = {}

    def prune(name: str, keep_macs: float | None = None) -> Pruned:
        keep_macs = keep_macs or (0.8 if name == "timm:test_vit" else 0.5)  # of which attention is half
        if (name, keep_macs) not in made:
            made[name, keep_macs] = prune_channels(network(name), shape=shape_of(name), keep_macs=keep_macs)
        return made[name, keep_macs]

    return prune
