"""Taking channels out."""

from typing import Any

import pytest
import torch
from layers import layer_of
from pruning.grouped import Network, Prune, ShapeOf, groups_of, images
from torch import Tensor, nn

from edgeoe.pruning.removal import without_blocks, without_channels

# The law that pruning rests on: removing a channel does what zeroing it does. It is checked here without the
# code under test: after which modules a layer's channels have to be zeroed was found by reading the networks.

ZEROED_AFTER: dict[str, dict[str, Any]] = {
    "chain": {"0.0": ["0.1"], "2.0": ["2.1"], "4.0": ["4.1"]},
    "residual": {
        **{name: ["wide.1", "depthwise.1"] for name in ("wide.0", "depthwise.0", "excite.expand")},  # one group
        "excite.squeeze": ["excite.squeeze"],
        "down.0": ["down.1"],
        "stem.0": ["stem.1", "narrow.1", ("last.1", 4)],  # its channels meet the fifth to twelfth of the last
    },
    "scaled": {"stem.0": ["stem.1", "outer.1"], "inner.0": ["inner.1"], "outer.0": ["stem.1", "outer.1"]},
    "torchvision:resnet18": {
        f"layer{stage}.{block}.conv1": [f"layer{stage}.{block}.bn1"] for stage in range(1, 5) for block in range(2)
    },
}

STREAMS = [  # of resnet18: one sum runs through each of these
    ["bn1", "layer1.0.bn2", "layer1.1.bn2"],
    *([f"layer{s}.0.bn2", f"layer{s}.0.downsample.1", f"layer{s}.1.bn2"] for s in (2, 3, 4)),
]

for stream in STREAMS:
    for normalisation in stream:
        layer = normalisation.replace("bn", "conv").replace("downsample.1", "downsample.0")
        ZEROED_AFTER["torchvision:resnet18"][layer] = stream


def zero_outputs(model: nn.Module, name: str, removed: dict[str, tuple[int, ...]]) -> list[str]:
    """Let the outputs of `removed` be zeros from now on; the modules where that was done."""
    places = []
    for layer, channels in removed.items():
        for entry in ZEROED_AFTER[name][layer]:
            place, shift = entry if isinstance(entry, tuple) else (entry, 0)
            indices = [channel + shift for channel in channels]

            def zeroed(module: nn.Module, x: object, out: Tensor, indices: list[int] = indices) -> Tensor:
                out = out.clone()
                out[:, indices] = 0
                return out

            model.get_submodule(place).register_forward_hook(zeroed)
            places.append(place)
    return places


@pytest.mark.parametrize("name", list(ZEROED_AFTER))
def test_removing_channels_does_what_zeroing_them_does(
    name: str, network: Network, pruned: Prune, shape_of: ShapeOf
) -> None:
    made, teacher, x = pruned(name), network(name), images(shape_of(name))
    before = teacher(x)
    places = zero_outputs(teacher, name, made.removed)
    assert len(places) == len(set(places)) > 0, "no place is zeroed twice"
    expected = teacher(x)
    assert not torch.allclose(before, expected, rtol=1e-3), "the channels that went did something"
    assert torch.allclose(made.model(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["chain", "torchvision:resnet18"])
def test_what_is_left_are_the_teachers_own_weights(name: str, network: Network, pruned: Prune) -> None:
    made, teacher = pruned(name), network(name).state_dict()
    for layer, channels in made.removed.items():
        weight = teacher[f"{layer}.weight"]
        left = [row for row in range(len(weight)) if row not in channels]
        student = made.model.state_dict()[f"{layer}.weight"]
        assert len(student) == len(left)
        sums = weight[left].abs().sum((1, 2, 3))
        assert (student.abs().sum((1, 2, 3)) <= sums + 1e-4).all(), "inputs may have gone, nothing may have come"


@pytest.mark.parametrize("name", ["stages", "residual", "torchvision:resnet18"])
def test_what_a_cut_takes_from_each_layer_is_where_the_group_says(
    name: str, network: Network, pruned: Prune, shape_of: ShapeOf
) -> None:
    teacher, made, groups = network(name), pruned(name), groups_of(network(name), shape_of(name))
    shapes: dict[str, list[int]] = {
        layer: list(module.weight.shape[:2])
        for layer, module in teacher.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    for group, channels in made.removed.items():
        for layer, spread in groups[group].producers.items():
            shapes[layer][0] -= sum(len(spread[channel]) for channel in channels)
        for layer, spread in groups[group].consumers.items():
            shapes[layer][1] -= sum(len(spread[channel]) for channel in channels)
    student = {name: list(layer_of(made.model, name).weight.shape[:2]) for name in shapes}
    assert student == shapes


def test_without_channels_is_a_copy(network: Network) -> None:
    teacher = network("stages")
    made = without_channels(teacher, (), {})
    assert torch.equal(made(images()), teacher(images()))
    nn.init.zeros_(layer_of(made, "stem.0").weight)
    assert bool(layer_of(teacher, "stem.0").weight.any())


def test_a_dropped_block_takes_what_the_block_took() -> None:
    """As of EfficientNets whose blocks are called with a rate of dropped paths."""

    class Rated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, scale: float, *, rate: float | None = None) -> Tensor:
            assert rate is not None
            y: Tensor = x + scale * self.conv(x)
            return y

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Rated() for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x, 0.5, rate=0.1)
            return x

    network, x = Called().eval(), torch.randn(2, 4, 3, 3)
    assert torch.equal(without_blocks(network, ["blocks.0", "blocks.1"])(x), x)
    assert torch.equal(without_blocks(network, ["blocks.0"])(x), network.blocks[1](x, 0.5, rate=0.1))
