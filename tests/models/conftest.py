"""Networks pruned once for many tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from edgeoe.pruning.prune import Pruned, prune_channels

Shape = tuple[int, int, int]


@pytest.fixture(scope="session")
def pruned(network: Callable[[str], nn.Module], shape_of: Callable[[str], Shape]) -> Callable[..., Pruned]:
    """`pruned(name)`: that network, cut to half of its MACs unless told; made once a session, so read only."""
    made: dict[tuple[str, float], Pruned] = {}

    def prune(name: str, keep_macs: float | None = None) -> Pruned:
        keep_macs = keep_macs or (0.8 if name == "timm:test_vit" else 0.5)  # of which attention is half
        if (name, keep_macs) not in made:
            made[name, keep_macs] = prune_channels(network(name), shape=shape_of(name), keep=keep_macs)
        return made[name, keep_macs]

    return prune
