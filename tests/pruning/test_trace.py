"""Which channels go together, in networks small enough to read the truth off their code."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layers import layer_of
from torch import Tensor, nn

from edgeoe.models.checkpoint import apply_plan, plan_between
from edgeoe.pruning.groups import Group
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.slots import CoupledChannels, SizeAttribute, Slot
from edgeoe.pruning.trace import trace_channels, unfused_attention
from edgeoe.pruning.verify import prunable_groups

OUTPUTS = "they are the network's outputs"
SIDE = 8
Places = dict[str, tuple[int, ...]]


class Net(nn.Module):
    """Layers, parameters and numbers by name, and what the forward does with them."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def net(run: Callable[[Any, Tensor], Any], **parts: Any) -> Net:
    """A `Net` with random numbers in all that it has, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    made = Net(run, **parts).eval()
    for parameter in made.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0, generator=generator)
    return made


def conv(inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def read(model: nn.Module, side: int = SIDE) -> list[CoupledChannels]:
    return trace_channels(model, torch.randn(1, 3, side, side))


def goes_with(model: nn.Module, layer: str, channel: int, side: int = SIDE) -> Places:
    """All that goes with that output of a layer: {"tensor axis": indices}."""
    tensor = layer if layer.endswith("weight") else f"{layer}.weight"
    for tied in read(model, side):
        for slot, rows in tied.slots.items():
            if f"{slot.module}.{slot.tensor}" == tensor and slot.axis == 0:
                for at, row in enumerate(rows):
                    if channel in row:
                        return {
                            f"{'.'.join(filter(None, slot[:2]))} {slot.axis}": rows[at]
                            for slot, rows in tied.slots.items()
                        }
    raise AssertionError(f"nothing holds channel {channel} of {layer}")


def refusals(model: nn.Module, side: int = SIDE) -> dict[str, str]:
    """Why the outputs of layers are refused, "" where they are not, by the first layer that makes them."""
    return {next(iter(tied.slots)).module: tied.refused for tied in read(model, side)}


# Layers


def test_a_chain() -> None:
    model = net(
        lambda n, x: n.head(pool(n.two(F.relu(n.norm(n.one(x)))))),
        one=conv(3, 4, 3, bias=True),
        norm=nn.BatchNorm2d(4),
        two=conv(4, 5),
        head=nn.Linear(5, 2),
    )
    norm = {f"norm.{name} 0": (2,) for name in ("weight", "bias", "running_mean", "running_var")}
    assert goes_with(model, "one", 2) == {"one.weight 0": (2,), "one.bias 0": (2,), **norm, "two.weight 1": (2,)}
    assert goes_with(model, "two", 4) == {"two.weight 0": (4,), "head.weight 1": (4,)}
    assert refusals(model) == {"one": "", "two": "", "head": OUTPUTS}
    assert [tied.units for tied in read(model)] == [4, 5, 2]
    assert not any(tied.attributes for tied in read(model))


def test_the_channels_of_the_image_stay() -> None:
    model = net(lambda n, x: n.head(pool(n.one(x) + n.two(x))), one=conv(3, 4), two=conv(3, 4), head=linear(4, 2))
    assert not any(slot[::2] == ("one", 1) for tied in read(model) for slot in tied.slots)


def test_a_sum_ties_what_it_adds() -> None:
    model = net(
        lambda n, x: n.head(pool(F.relu((y := n.stem(x)) + n.two(n.one(y))))),
        stem=conv(3, 4),
        one=conv(4, 6),
        two=conv(6, 4),
        head=linear(4, 2),
    )
    together = {"stem.weight 0": (1,), "one.weight 1": (1,), "two.weight 0": (1,), "head.weight 1": (1,)}
    assert goes_with(model, "stem", 1) == goes_with(model, "two", 1) == together
    assert goes_with(model, "one", 5) == {"one.weight 0": (5,), "two.weight 1": (5,)}


def test_inputs_after_a_concatenation_belong_to_several_layers() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        a = n.a(x)
        b = torch.cat([a, n.b(a)], 1)
        return n.head(pool(torch.cat([b, n.c(b)], 1)))

    model = net(run, a=conv(3, 4), b=conv(4, 2), c=conv(6, 2), head=linear(8, 2))
    assert goes_with(model, "a", 3) == {
        "a.weight 0": (3,), "b.weight 1": (3,), "c.weight 1": (3,), "head.weight 1": (3,)
    }  # fmt: skip
    assert goes_with(model, "b", 1) == {"b.weight 0": (1,), "c.weight 1": (5,), "head.weight 1": (5,)}
    assert goes_with(model, "c", 0) == {"c.weight 0": (0,), "head.weight 1": (6,)}


def test_a_gate_over_space_is_tied_to_the_channels_that_it_scales() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        x = n.stem(x)
        return n.head(pool(x * n.up(F.relu(n.down(x.mean((2, 3), keepdim=True)))).sigmoid()))

    model = net(run, stem=conv(3, 4), down=conv(4, 2), up=conv(2, 4), head=linear(4, 2))
    assert goes_with(model, "up", 3) == {
        "stem.weight 0": (3,), "down.weight 1": (3,), "up.weight 0": (3,), "head.weight 1": (3,)
    }  # fmt: skip
    assert goes_with(model, "down", 1) == {"down.weight 0": (1,), "up.weight 1": (1,)}


def test_a_gate_over_channels_is_not_tied_to_them_and_stays() -> None:
    model = net(
        lambda n, x: n.head(pool((y := n.stem(x)) * n.gate(y).sigmoid())),
        stem=conv(3, 4),
        gate=conv(4, 1, 3),
        head=linear(4, 2),
    )
    assert goes_with(model, "stem", 2) == {"stem.weight 0": (2,), "gate.weight 1": (2,), "head.weight 1": (2,)}
    assert refusals(model) == {"stem": "", "gate": "they are spread over other channels", "head": OUTPUTS}


def test_a_depthwise_convolution_hands_channels_on() -> None:
    model = net(
        lambda n, x: n.head(pool(n.depthwise(n.stem(x)))),
        stem=conv(3, 4),
        depthwise=conv(4, 4, 3, groups=4, bias=True),
        head=linear(4, 2),
    )
    assert goes_with(model, "stem", 1) == {
        "stem.weight 0": (1,), "depthwise.weight 0": (1,), "depthwise.bias 0": (1,), "head.weight 1": (1,)
    }  # fmt: skip
    assert read(model)[0].attributes == (SizeAttribute("depthwise", "groups", 1),)


def test_a_depthwise_convolution_may_make_several_of_each_channel() -> None:
    model = net(
        lambda n, x: n.head(pool(n.depthwise(n.stem(x)))),
        stem=conv(3, 4),
        depthwise=conv(4, 8, 3, groups=4),
        head=linear(8, 2),
    )
    assert goes_with(model, "stem", 1) == {
        "stem.weight 0": (1,), "depthwise.weight 0": (2, 3), "head.weight 1": (2, 3)
    }  # fmt: skip
    assert read(model)[0].attributes == (SizeAttribute("depthwise", "groups", 1),)


def test_a_depthwise_convolution_of_the_image_stays() -> None:
    model = net(
        lambda n, x: n.head(pool(n.stem(n.each(x)))), each=conv(3, 6, 3, groups=3), stem=conv(6, 4), head=linear(4, 2)
    )
    assert refusals(model) == {"each": "each reads the image group by group", "stem": "", "head": OUTPUTS}


def test_of_many_narrow_groups_whole_ones_go() -> None:
    model = net(
        lambda n, x: n.head(pool(n.grouped(n.stem(x)))),
        stem=conv(3, 8),
        grouped=conv(8, 12, groups=4),
        head=linear(12, 2),
    )
    assert goes_with(model, "stem", 2) == {
        "stem.weight 0": (2, 3), "grouped.weight 0": (3, 4, 5), "head.weight 1": (3, 4, 5)
    }  # fmt: skip
    assert read(model)[0].attributes == (SizeAttribute("grouped", "groups", 1),)
    assert read(model)[0].units == 4


def test_of_few_wide_groups_one_place_of_each_goes() -> None:
    model = net(
        lambda n, x: n.head(pool(n.grouped(n.stem(x)))),
        stem=conv(3, 8),
        grouped=conv(8, 6, groups=2),
        head=linear(6, 2),
    )
    assert goes_with(model, "stem", 6) == {"stem.weight 0": (2, 6), "grouped.weight 1": (2,)}
    assert goes_with(model, "grouped", 1) == {"grouped.weight 0": (1, 4), "head.weight 1": (1, 4)}
    assert not any(tied.attributes for tied in read(model))


def test_a_layer_that_runs_twice_reads_and_makes_the_same_channels() -> None:
    model = net(
        lambda n, x: n.head(pool(n.shared(F.relu(n.shared(n.stem(x)))))),
        stem=conv(3, 4),
        shared=conv(4, 4),
        head=linear(4, 2),
    )
    together = {"stem.weight 0": (2,), "shared.weight 0": (2,), "shared.weight 1": (2,), "head.weight 1": (2,)}
    assert goes_with(model, "shared", 2) == together


def test_a_weight_that_two_layers_share_ties_both() -> None:
    model = net(
        lambda n, x: n.head(pool(n.two(F.relu(n.one(n.stem(x)))))),
        stem=conv(3, 4),
        one=conv(4, 4),
        two=conv(4, 4),
        head=linear(4, 2),
    )
    layer_of(model, "two").weight = layer_of(model, "one").weight
    together = {"stem.weight 0": (2,), "one.weight 1": (2,), "one.weight 0": (2,), "head.weight 1": (2,)}
    assert refusals(model)["stem"] or goes_with(model, "stem", 2) == together


def test_weights_that_are_standardised_before_use() -> None:
    class Standardised(nn.Conv2d):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, 3, padding=1)
            self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            flat = self.weight.reshape(1, self.out_channels, -1)
            scaled = F.batch_norm(flat, None, None, self.gain.view(-1), training=True, momentum=0.0)
            return F.conv2d(x, scaled.reshape_as(self.weight), self.bias, padding=1)

    model = net(
        lambda n, x: n.head(pool(n.two(n.one(x)))), one=Standardised(3, 4), two=Standardised(4, 5), head=linear(5, 2)
    )
    assert goes_with(model, "one", 2) == {
        "one.weight 0": (2,), "one.bias 0": (2,), "one.gain 0": (2,), "two.weight 1": (2,)
    }  # fmt: skip
    assert set(refusals(model).values()) == {"", OUTPUTS}


# What moves channels about


def test_a_channel_shuffle_takes_one_of_each_group() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x)
        b, c, h, w = y.shape
        return n.head(pool(y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)))

    model = net(run, stem=conv(3, 8), head=linear(8, 2))
    assert goes_with(model, "stem", 5) == {"stem.weight 0": (1, 5), "head.weight 1": (2, 3)}


def test_torchs_own_channel_shuffle_moves_channels() -> None:
    model = net(lambda n, x: n.head(pool(F.channel_shuffle(n.stem(x), 2))), stem=conv(3, 8), head=linear(8, 2))
    found = goes_with(model, "stem", 5)
    assert 5 in found["stem.weight 0"]
    assert 3 in found["head.weight 1"]


def test_halves_that_are_multiplied_are_tied() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        a, b = n.stem(x).chunk(2, 1)
        return n.head(pool(a * b.sigmoid()))

    model = net(run, stem=conv(3, 8), head=linear(4, 2))
    assert goes_with(model, "stem", 7) == {"stem.weight 0": (3, 7), "head.weight 1": (3,)}
    glu = net(lambda n, x: n.head(pool(F.glu(n.stem(x), 1))), stem=conv(3, 8), head=linear(4, 2))
    assert goes_with(glu, "stem", 7) == {"stem.weight 0": (3, 7), "head.weight 1": (3,)}


def test_halves_that_are_swapped_are_tied_because_both_have_to_stay_alike() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        a, b = n.stem(x).chunk(2, 1)
        return n.head(pool(torch.cat([b, n.other(a)], 1)))

    model = net(run, stem=conv(3, 8), other=conv(4, 3), head=linear(7, 2))
    assert goes_with(model, "stem", 6) == {"stem.weight 0": (2, 6), "other.weight 1": (2,), "head.weight 1": (2,)}
    assert goes_with(model, "other", 0) == {"other.weight 0": (0,), "head.weight 1": (4,)}


def test_uneven_parts_are_not_tied() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        a, b = n.stem(x).split([3, 5], 1)
        return n.head(pool(torch.cat([b, a], 1)))

    model = net(run, stem=conv(3, 8), head=linear(8, 2))
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "head.weight 1": (6,)}


def test_a_shortcut_padded_with_zeros_ties_only_what_meets() -> None:
    model = net(
        lambda n, x: n.head(pool(F.pad(y := n.stem(x), (0, 0, 0, 0, 2, 2)) + n.wide(y))),
        stem=conv(3, 4),
        wide=conv(4, 8),
        head=linear(8, 2),
    )
    assert goes_with(model, "stem", 1) == {
        "stem.weight 0": (1,), "wide.weight 0": (3,), "wide.weight 1": (1,), "head.weight 1": (3,)
    }  # fmt: skip
    assert goes_with(model, "wide", 0) == {"wide.weight 0": (0,), "head.weight 1": (0,)}
    assert sorted(tied.units for tied in read(model)) == [2, 4, 4]


def test_a_map_that_is_flattened_gives_several_inputs_a_channel() -> None:
    model = net(
        lambda n, x: n.head(F.adaptive_avg_pool2d(n.stem(x), 2).flatten(1)), stem=conv(3, 4), head=linear(16, 2)
    )
    assert goes_with(model, "stem", 2) == {"stem.weight 0": (2,), "head.weight 1": (8, 9, 10, 11)}


def test_a_map_that_is_flattened_channels_last() -> None:
    model = net(
        lambda n, x: n.head(F.adaptive_avg_pool2d(n.stem(x), 2).permute(0, 2, 3, 1).flatten(1)),
        stem=conv(3, 4),
        head=linear(16, 2),
    )
    assert goes_with(model, "stem", 2) == {"stem.weight 0": (2,), "head.weight 1": (2, 6, 10, 14)}


SPATIAL: dict[str, Callable[[Tensor], Tensor]] = {
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive average pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, 2),
    "lp pool": lambda x: F.lp_pool2d(x, 2.0, 2),
    "nearest upsampling": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear upsampling": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bicubic upsampling": lambda x: F.interpolate(x, size=(5, 5), mode="bicubic", antialias=True),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "flip": lambda x: x.flip(3),
    "padding": lambda x: F.pad(x, (1, 2, 3, 0)),
    "reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replication": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "circular padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "crop": lambda x: x[:, :, 1:-1, ::2],
    "windows": lambda x: x.view(1, -1, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(4, -1, 4, 4).sum(0, keepdim=True),
    "unfold": lambda x: x.unfold(2, 2, 2).amax(-1),
    "softmax over space": lambda x: x.flatten(2).softmax(-1).view_as(x) * x,
    "instance norm": lambda x: F.instance_norm(x),
    "activations": lambda x: F.hardswish(F.gelu(F.leaky_relu(F.silu(x)))).clamp(0, 6),
    "statistics": lambda x: torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], 2),
    "lp norm over space": lambda x: x / x.norm(dim=(2, 3), keepdim=True),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "half and back": lambda x: x.double().float(),
    "larger of two": lambda x: torch.max(torch.where(x > 0, x, -x), x.exp()),
    "grid": lambda x: F.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=False),
    "cumulative over space": lambda x: x.cumsum(2),
}


@pytest.mark.parametrize("name", SPATIAL)
def test_what_works_along_space_leaves_channels_alone(name: str) -> None:
    model = net(lambda n, x: n.head(pool(SPATIAL[name](n.stem(x)))), stem=conv(3, 4), head=linear(4, 2))
    assert goes_with(model, "stem", 2) == {"stem.weight 0": (2,), "head.weight 1": (2,)}
    assert refusals(model) == {"stem": "", "head": OUTPUTS}


def test_pixels_shuffled_into_channels_are_tied() -> None:
    model = net(lambda n, x: n.head(pool(F.pixel_shuffle(n.stem(x), 2))), stem=conv(3, 8), head=linear(2, 2))
    assert goes_with(model, "stem", 5) == {"stem.weight 0": (4, 5, 6, 7), "head.weight 1": (1,)}
    model = net(lambda n, x: n.head(pool(F.pixel_unshuffle(n.stem(x), 2))), stem=conv(3, 2), head=linear(8, 2))
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "head.weight 1": (4, 5, 6, 7)}


def test_patches_of_im2col_hold_each_channel_several_times() -> None:
    model = net(lambda n, x: n.head(F.unfold(n.stem(x), 2, stride=2).mean(2)), stem=conv(3, 3), head=linear(12, 2))
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "head.weight 1": (4, 5, 6, 7)}


def test_a_focus_stem_reads_slices() -> None:
    model = net(
        lambda n, x: n.head(pool(torch.cat([(y := n.stem(x))[..., ::2, ::2], y[..., 1::2, ::2]], 1))),
        stem=conv(3, 4),
        head=linear(8, 2),
    )
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "head.weight 1": (1, 5)}


# Writing in place


def test_functions_in_place() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x)
        z = n.two(F.relu_(n.one(y)))
        z += y
        z.mul_(2).clamp_(-1, 1)
        return n.head(pool(z))

    model = net(run, stem=conv(3, 4), one=conv(4, 5), two=conv(5, 4), head=linear(4, 2))
    assert goes_with(model, "stem", 3) == {
        "stem.weight 0": (3,), "one.weight 1": (3,), "two.weight 0": (3,), "head.weight 1": (3,)
    }  # fmt: skip


def test_a_slice_that_is_written_belongs_to_what_was_written() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x)
        y[:, :2] = n.part(y[:, :2])
        return n.head(pool(y))

    model = net(run, stem=conv(3, 4), part=conv(2, 2, 3), head=linear(4, 2))
    assert goes_with(model, "part", 1) == {"part.weight 0": (1,), "head.weight 1": (1,)}
    assert goes_with(model, "stem", 0) == {"stem.weight 0": (0,), "part.weight 1": (0,)}
    assert goes_with(model, "stem", 3) == {"stem.weight 0": (3,), "head.weight 1": (3,)}


PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "chunk": lambda y: y.chunk(2, 1)[0],
    "narrow": lambda y: y.narrow(1, 0, 2),
    "channels last": lambda y: y.permute(0, 2, 3, 1)[..., :2].permute(0, 3, 1, 2),
    "view": lambda y: y.view(1, 2, 2, SIDE, SIDE)[:, 0],
    "unbind": lambda y: y.unflatten(1, (2, 2)).unbind(1)[0],
}


@pytest.mark.parametrize("name", PARTS)
def test_a_view_of_a_part_that_is_written_writes_the_whole(name: str) -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x)
        PARTS[name](y).copy_(n.other(x))
        return n.head(pool(y))

    model = net(run, stem=conv(3, 4), other=conv(3, 2), head=linear(4, 2))
    found = goes_with(model, "other", 1)
    assert found["other.weight 0"] in ((1,), (0, 1))
    assert 1 in found["head.weight 1"]
    assert "stem.weight 0" not in found


def test_a_copy_that_is_written_leaves_what_it_was_copied_from() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = torch.cat([n.stem(x), n.other(x)], 1)
        z = y.clone()
        z[:, :2] = n.part(y[:, :2])
        return n.head(pool(z)) + n.tail(pool(y))

    model = net(run, stem=conv(3, 2), other=conv(3, 2), part=conv(2, 2), head=linear(4, 2), tail=linear(4, 2))
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "part.weight 1": (1,), "tail.weight 1": (1,)}
    assert goes_with(model, "part", 1) == {"part.weight 0": (1,), "head.weight 1": (1,)}


def test_rows_that_are_blotted_out_keep_the_others() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x)
        y[:, :, 0] = 0
        return n.head(pool(y))

    model = net(run, stem=conv(3, 4), head=linear(4, 2))
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "head.weight 1": (1,)}


def test_a_slice_that_is_added_to_is_tied() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x)
        y[:, 1:3] += n.part(y[:, :2])
        return n.head(pool(y))

    model = net(run, stem=conv(3, 4), part=conv(2, 2, 3), head=linear(4, 2))
    found = goes_with(model, "part", 1)
    assert found["part.weight 0"] == (1,)
    assert found["head.weight 1"] == (2,)
    assert found["stem.weight 0"] == (2,)


def test_an_empty_tensor_that_is_filled() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = torch.zeros(1, 6, SIDE, SIDE)
        y[:, :2] = n.one(x)
        y[:, 2:] = n.two(x)
        return n.head(pool(y))

    model = net(run, one=conv(3, 2), two=conv(3, 4), head=linear(6, 2))
    assert goes_with(model, "one", 1) == {"one.weight 0": (1,), "head.weight 1": (1,)}
    assert goes_with(model, "two", 1) == {"two.weight 0": (1,), "head.weight 1": (3,)}


# Norms and bare parameters


def test_layer_norms_of_both_layouts() -> None:
    model = net(
        lambda n, x: n.head(n.last(pool(n.first(n.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))),
        stem=conv(3, 4),
        first=nn.LayerNorm(4),
        last=nn.LayerNorm(4),
        head=linear(4, 2),
    )
    norms = {f"{norm}.{name} 0": (1,) for norm in ("first", "last") for name in ("weight", "bias")}
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), **norms, "head.weight 1": (1,)}
    assert refusals(model)["stem"] == ""


def test_a_norm_over_channels_written_by_hand() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x)
        y = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True) + 1e-6).sqrt()
        y = y * n.scale[:, None, None] + n.shift.view(1, -1, 1, 1)
        return n.head(pool(y))

    model = net(run, stem=conv(3, 4), scale=weight(4), shift=weight(4), head=linear(4, 2))
    assert goes_with(model, "stem", 1) == {
        "stem.weight 0": (1,), "scale 0": (1,), "shift 0": (1,), "head.weight 1": (1,)
    }  # fmt: skip
    assert refusals(model)["stem"] == ""


@pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_over_channels_and_places(make: Callable[[list[int]], nn.Module]) -> None:
    model = net(
        lambda n, x: n.head(pool(n.norm(n.stem(x)))), stem=conv(3, 4), norm=make([4, SIDE, SIDE]), head=linear(4, 2)
    )
    found = goes_with(model, "stem", 1)
    assert found["norm.weight 0"] == (1,)
    assert found["head.weight 1"] == (1,)


def test_a_group_norm_loses_whole_groups() -> None:
    model = net(
        lambda n, x: n.head(pool(n.norm(n.stem(x)))), stem=conv(3, 8), norm=nn.GroupNorm(4, 8), head=linear(8, 2)
    )
    assert goes_with(model, "stem", 2) == {
        "stem.weight 0": (2, 3), "norm.weight 0": (2, 3), "norm.bias 0": (2, 3), "head.weight 1": (2, 3)
    }  # fmt: skip
    assert read(model)[0].attributes == (SizeAttribute("norm", "num_groups", 1),)


def test_a_group_norm_of_one_group_loses_channels() -> None:
    model = net(
        lambda n, x: n.head(pool(n.norm(n.stem(x)))), stem=conv(3, 8), norm=nn.GroupNorm(1, 8), head=linear(8, 2)
    )
    assert goes_with(model, "stem", 2)["norm.weight 0"] == (2,)
    assert not read(model)[0].attributes


def test_a_group_norm_without_weights_is_refused() -> None:
    model = net(
        lambda n, x: n.head(pool(n.norm(n.stem(x)))),
        stem=conv(3, 8),
        norm=nn.GroupNorm(4, 8, affine=False),
        head=linear(8, 2),
    )
    assert refusals(model)["stem"] == "a group norm without weights counts them"


def test_position_embeddings_and_class_tokens_hold_channels() -> None:
    model = net(
        lambda n, x: n.head((torch.cat([n.token.expand(len(x), -1, -1), tokens(n.stem(x))], 1) + n.places).mean(1)),
        stem=conv(3, 4),
        token=weight(1, 1, 4),
        places=weight(1, SIDE * SIDE + 1, 4),
        head=linear(4, 2),
    )
    assert goes_with(model, "stem", 1) == {
        "stem.weight 0": (1,), "token 2": (1,), "places 2": (1,), "head.weight 1": (1,)
    }  # fmt: skip
    assert refusals(model)["stem"] == ""


def test_a_position_embedding_that_is_resized_holds_channels() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        places = n.places.reshape(1, 4, 4, 4).permute(0, 3, 1, 2)
        return n.head(pool(n.stem(x) + F.interpolate(places, size=(SIDE, SIDE), mode="bicubic")))

    model = net(run, stem=conv(3, 4), places=weight(1, 16, 4), head=linear(4, 2))
    found = goes_with(model, "stem", 1)
    assert found == {"stem.weight 0": (1,), "places 2": (1,), "head.weight 1": (1,)}


def test_a_position_embedding_in_two_parts_holds_channels() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        upper, lower = n.places.chunk(2, 1)
        return n.head((tokens(n.stem(x)) + torch.cat([lower, upper], 1)).mean(1))

    model = net(run, stem=conv(3, 4), places=weight(1, 64, 4), head=linear(4, 2))
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "places 2": (1,), "head.weight 1": (1,)}


def test_a_scale_for_each_channel_goes_with_it_and_one_for_all_does_not() -> None:
    model = net(
        lambda n, x: n.head(pool((y := n.stem(x)) + n.all * (n.one(y) * n.gamma.view(1, -1, 1, 1)))),
        stem=conv(3, 4),
        one=conv(4, 4),
        gamma=weight(4),
        all=weight(1),
        head=linear(4, 2),
    )
    assert goes_with(model, "one", 1) == {
        "stem.weight 0": (1,), "one.weight 0": (1,), "one.weight 1": (1,), "gamma 0": (1,), "head.weight 1": (1,)
    }  # fmt: skip


def test_prelu_has_a_slope_for_each_channel_or_one_for_all() -> None:
    model = net(
        lambda n, x: n.head(pool(n.one(n.each(n.stem(x))))),
        stem=conv(3, 4),
        each=nn.PReLU(4),
        one=nn.PReLU(),
        head=linear(4, 2),
    )
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "each.weight 0": (1,), "head.weight 1": (1,)}


def test_global_response_normalisation() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x).permute(0, 2, 3, 1)
        length = y.norm(p=2, dim=(1, 2), keepdim=True)
        response = length / (length.mean(-1, keepdim=True) + 1e-6)
        return n.head((y + n.gamma * (y * response) + n.beta).mean((1, 2)))

    model = net(run, stem=conv(3, 4), gamma=weight(1, 1, 1, 4), beta=weight(4), head=linear(4, 2))
    assert goes_with(model, "stem", 1) == {
        "stem.weight 0": (1,), "gamma 3": (1,), "beta 0": (1,), "head.weight 1": (1,)
    }  # fmt: skip
    assert refusals(model)["stem"] == ""


def test_mixing_tokens_carries_channels_and_its_own_hidden_width_is_left_alone() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = tokens(n.stem(x))
        y = y + n.out(F.gelu(n.into(y.transpose(1, 2)))).transpose(1, 2)
        return n.head((y + n.two(F.gelu(n.one(y)))).mean(1))

    model = net(run, stem=conv(3, 4), into=nn.Linear(64, 6), out=nn.Linear(6, 64),
                one=nn.Linear(4, 5), two=nn.Linear(5, 4), head=linear(4, 2))  # fmt: skip
    assert goes_with(model, "stem", 1) == {
        "stem.weight 0": (1,), "one.weight 1": (1,), "two.weight 0": (1,), "two.bias 0": (1,), "head.weight 1": (1,)
    }  # fmt: skip
    assert goes_with(model, "one", 3) == {"one.weight 0": (3,), "one.bias 0": (3,), "two.weight 1": (3,)}
    assert not any(slot.module in ("into", "out") for tied in read(model) for slot in tied.slots)


# Attention: 8 channels, two heads of four

HEADS = {0: (0, 1, 2, 3), 1: (4, 5, 6, 7)}


def packed(n: Any, x: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, C), as in timm."""
    b, t, _ = x.shape
    q, k, v = n.qkv(x).reshape(b, t, 3, n.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return n.proj(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))


def fused(n: Any, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    q, k, v = n.qkv(x).reshape(b, t, 3, n.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return n.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))


def einsums(n: Any, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    q, k, v = (y.view(b, t, n.heads, -1) for y in n.qkv(x).chunk(3, -1))
    weights = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
    return n.proj(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


def chunked(n: Any, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    q, k, v = (y[0] for y in n.qkv(x).reshape(b, t, 3, n.heads, -1).permute(2, 0, 3, 1, 4).chunk(3))
    return n.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))


@pytest.mark.parametrize("attend", [packed, fused, einsums, chunked])
def test_heads_of_packed_attention_are_units(attend: Callable[[Any, Tensor], Tensor]) -> None:
    model = net(
        lambda n, x: n.head((y := tokens(n.stem(x))).mean(1) + attend(n, y).mean(1)),
        stem=conv(3, 8),
        qkv=nn.Linear(8, 24),
        proj=linear(8, 8),
        heads=2,
        head=linear(8, 2),
    )
    rows = (4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23)
    assert goes_with(model, "qkv", 5) == {"qkv.weight 0": rows, "qkv.bias 0": rows, "proj.weight 1": HEADS[1]}
    assert goes_with(model, "stem", 5) == {
        "stem.weight 0": (5,), "qkv.weight 1": (5,), "proj.weight 0": (5,), "head.weight 1": (5,)
    }  # fmt: skip
    assert set(refusals(model).values()) == {"", OUTPUTS}


def heads_of(y: Tensor, heads: int) -> Tensor:
    return y.view(*y.shape[:2], heads, -1).transpose(1, 2)


def test_heads_of_separate_queries_keys_and_values_are_units() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = tokens(n.stem(x))
        q, k, v = (heads_of(layer(y), n.heads) for layer in (n.q, n.k, n.v))
        z = (q @ k.mT * n.temperature).softmax(-1) @ v
        return n.head(n.proj(z.transpose(1, 2).flatten(2)).mean(1))

    model = net(run, stem=conv(3, 6), q=linear(6, 8), k=linear(6, 8), v=linear(6, 8), proj=linear(8, 5),
                temperature=weight(2, 1, 1), heads=2, head=linear(5, 2))  # fmt: skip
    together = {f"{name}.weight 0": HEADS[1] for name in "qkv"} | {"temperature 0": (1,), "proj.weight 1": HEADS[1]}
    assert goes_with(model, "q", 6) == goes_with(model, "v", 4) == together


def test_values_may_be_wider_than_keys() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = tokens(n.stem(x))
        q, k, v = (heads_of(layer(y), n.heads) for layer in (n.q, n.k, n.v))
        return n.head(n.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)).mean(1))

    model = net(run, stem=conv(3, 6), q=linear(6, 4), k=linear(6, 4), v=linear(6, 8), proj=linear(8, 5),
                heads=2, head=linear(5, 2))  # fmt: skip
    assert goes_with(model, "q", 0) == {
        "q.weight 0": (0, 1), "k.weight 0": (0, 1), "v.weight 0": (0, 1, 2, 3), "proj.weight 1": (0, 1, 2, 3)
    }  # fmt: skip


@pytest.mark.parametrize("way", ["repeat_interleave", "expand", "sdpa"])
def test_of_grouped_queries_those_go_together_that_share_keys(way: str) -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = tokens(n.stem(x))
        q, k, v = heads_of(n.q(y), 4), heads_of(n.k(y), 2), heads_of(n.v(y), 2)
        if way == "sdpa":
            z = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            if way == "repeat_interleave":
                k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            else:
                k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(1, 4, -1, 2) for t in (k, v))
            z = (q @ k.mT).softmax(-1) @ v
        return n.head(n.proj(z.transpose(1, 2).flatten(2)).mean(1))

    model = net(run, stem=conv(3, 6), q=linear(6, 8), k=linear(6, 4), v=linear(6, 4), proj=linear(8, 5),
                head=linear(5, 2))  # fmt: skip
    assert goes_with(model, "q", 6) == {
        "q.weight 0": HEADS[1], "k.weight 0": (2, 3), "v.weight 0": (2, 3), "proj.weight 1": HEADS[1]
    }  # fmt: skip


@pytest.mark.parametrize("needs_weights", [False, True])
def test_heads_of_torchs_own_attention_are_units(needs_weights: bool) -> None:
    model = net(
        lambda n, x: n.head(n.attention(y := tokens(n.stem(x)), y, y, need_weights=needs_weights)[0].mean(1)),
        stem=conv(3, 8),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        head=linear(8, 2),
    )
    rows = (4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23)
    assert goes_with(model, "attention.in_proj_weight", 5) == {
        "attention.in_proj_weight 0": rows, "attention.in_proj_bias 0": rows, "attention.out_proj.weight 1": HEADS[1]
    }  # fmt: skip
    assert goes_with(model, "stem", 3) == {"stem.weight 0": (3,), "attention.in_proj_weight 1": (3,)}
    assert goes_with(model, "attention.out_proj", 3) == {
        "attention.out_proj.weight 0": (3,), "attention.out_proj.bias 0": (3,), "head.weight 1": (3,)
    }  # fmt: skip


@pytest.mark.parametrize("shift", [0, 2])
def test_windowed_attention_has_a_column_of_biases_for_each_head(shift: int) -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = n.stem(x).permute(0, 2, 3, 1)
        y = y.roll((-shift, -shift), (1, 2)) if shift else y
        y = y.view(1, 2, 4, 2, 4, 8).transpose(2, 3).reshape(4, 16, 8)
        q, k, v = n.qkv(y).reshape(4, 16, 3, n.heads, -1).permute(2, 0, 3, 1, 4)
        bias = n.table[n.index.view(-1)].view(16, 16, -1).permute(2, 0, 1)
        score = q @ k.transpose(-2, -1) + bias[None]
        if shift:
            score = (score.view(1, 4, -1, 16, 16) + n.mask[None, :, None]).view(4, -1, 16, 16)
        z = n.proj((score.softmax(-1) @ v).transpose(1, 2).reshape(4, 16, -1))
        z = z.view(1, 2, 2, 4, 4, -1).transpose(2, 3).reshape(1, SIDE, SIDE, -1)
        return n.head(z.mean((1, 2)))

    model = net(run, stem=conv(3, 8), qkv=linear(8, 24), proj=linear(8, 5), table=weight(49, 2), heads=2,
                head=linear(5, 2))  # fmt: skip
    place = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
    offset = place[:, :, None] - place[:, None] + 3
    model.register_buffer("index", offset[0] * 7 + offset[1])
    model.register_buffer("mask", torch.where(torch.rand(4, 16, 16) < 0.3, -100.0, 0.0))
    rows = (4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23)
    assert goes_with(model, "qkv", 5) == {"qkv.weight 0": rows, "table 1": (1,), "proj.weight 1": HEADS[1]}
    assert goes_with(model, "stem", 5) == {"stem.weight 0": (5,), "qkv.weight 1": (5,)}
    assert set(refusals(model).values()) == {"", OUTPUTS}


def test_attention_over_channels_ties_those_of_a_head() -> None:
    """XCiT: channels attend to channels, so those of a head hold together."""

    def run(n: Any, x: Tensor) -> Tensor:
        y = tokens(n.stem(x))
        q, k, v = n.qkv(y).reshape(1, -1, 3, n.heads, 4).permute(2, 0, 3, 4, 1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        z = (q @ k.mT * n.temperature).softmax(-1) @ v
        return n.head(n.proj(z.permute(0, 3, 1, 2).reshape(1, -1, n.heads * 4)).mean(1))

    model = net(run, stem=conv(3, 6), qkv=linear(6, 24), proj=linear(8, 5), temperature=weight(2, 1, 1), heads=2,
                head=linear(5, 2))  # fmt: skip
    rows = (4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23)
    assert goes_with(model, "qkv", 5) == {"qkv.weight 0": rows, "temperature 0": (1,), "proj.weight 1": HEADS[1]}


def crossing(model: nn.Module) -> list[Places]:
    """The first unit of each group that crosses others."""
    return [
        {f"{'.'.join(filter(None, slot[:2]))} {slot.axis}": rows[0] for slot, rows in tied.slots.items()}
        for tied in read(model)
        if tied.crossing
    ]


@pytest.mark.parametrize("attend", [packed, fused, einsums, chunked])
def test_a_dimension_of_every_head_is_a_unit(attend: Callable[[Any, Tensor], Tensor]) -> None:
    model = net(
        lambda n, x: n.head((y := tokens(n.stem(x))).mean(1) + attend(n, y).mean(1)),
        stem=conv(3, 8),
        qkv=nn.Linear(8, 24),
        proj=linear(8, 8),
        heads=2,
        head=linear(8, 2),
    )
    rows = (0, 4, 8, 12, 16, 20)
    assert crossing(model) == [{"qkv.weight 0": rows, "qkv.bias 0": rows, "proj.weight 1": (0, 4)}]
    (group,) = (tied for tied in read(model) if tied.crossing)
    assert group.units == 4
    queries = {Slot("qkv", name, 0): tuple(range(8)) for name in ("weight", "bias")}
    assert group.scaled == (queries if attend is fused else {}), "others divide by a number that stays"


def test_dimensions_of_queries_and_keys_go_apart_from_those_of_values() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = tokens(n.stem(x))
        q, k, v = (heads_of(layer(y), n.heads) for layer in (n.q, n.k, n.v))
        z = (q @ k.mT * n.temperature).softmax(-1) @ v
        return n.head(n.proj(z.transpose(1, 2).flatten(2)).mean(1))

    model = net(run, stem=conv(3, 6), q=linear(6, 4), k=linear(6, 4), v=linear(6, 8), proj=linear(8, 5),
                temperature=weight(2, 1, 1), heads=2, head=linear(5, 2))  # fmt: skip
    assert crossing(model) == [
        {"q.weight 0": (0, 2), "k.weight 0": (0, 2)},
        {"v.weight 0": (0, 4), "proj.weight 1": (0, 4)},
    ]


def test_dimensions_of_parts_with_sizes_of_their_own_go_apart() -> None:
    """As in LeViT: queries, keys and wider values of each head side by side, a norm behind them."""

    def run(n: Any, x: Tensor) -> Tensor:
        y = n.norm(n.qkv(tokens(n.stem(x))).flatten(0, 1)).view(1, -1, n.heads, 8)
        q, k, v = (part.transpose(1, 2) for part in y.split([2, 2, 4], -1))
        z = (q @ k.mT).softmax(-1) @ v
        return n.head(n.proj(z.transpose(1, 2).flatten(2)).mean(1))

    model = net(run, stem=conv(3, 6), qkv=linear(6, 16), norm=nn.BatchNorm1d(16), proj=linear(8, 5), heads=2,
                head=linear(5, 2))  # fmt: skip
    assert [places["qkv.weight 0"] for places in crossing(model)] == [(0, 2, 8, 10), (4, 12)]
    assert crossing(model)[0]["norm.running_mean 0"] == (0, 2, 8, 10)


def test_dimensions_stay_alike_where_places_are_merged_as_channels_are_split() -> None:
    """As in the Hiera of SAM 2, which keeps rows and columns up to its attention."""

    def run(n: Any, x: Tensor) -> Tensor:
        y = n.qkv(n.stem(x).permute(0, 2, 3, 1)).reshape(1, SIDE * SIDE, 3, n.heads, -1)
        q, k, v = (part.transpose(1, 2) for part in y.unbind(2))
        z = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, SIDE, SIDE, -1)
        return n.head(n.proj(z).mean((1, 2)))

    model = net(run, stem=conv(3, 6), qkv=linear(6, 24), proj=linear(8, 5), heads=2, head=linear(5, 2))
    assert [found["qkv.weight 0"] for found in crossing(model)] == [(0, 4, 8, 12, 16, 20)]


def test_biases_of_attention_leave_dimensions_alone() -> None:
    """As in BEiT: the class token has biases of its own, so that not all rows share some."""

    def run(n: Any, x: Tensor) -> Tensor:
        y = tokens(n.stem(x))
        q, k, v = n.qkv(y).reshape(1, -1, 3, n.heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = n.table[n.index].permute(2, 0, 1)[None]
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return n.head(n.proj(z.transpose(1, 2).flatten(2)).mean(1))

    model = net(run, stem=conv(3, 6), qkv=linear(6, 24), proj=linear(8, 5), table=weight(128, 2), heads=2,
                head=linear(5, 2))  # fmt: skip
    places = torch.arange(SIDE * SIDE)
    model.register_buffer("index", torch.where(places[:, None] > 0, (places[:, None] - places).abs(), 64 + places))
    assert [found["qkv.weight 0"] for found in crossing(model)] == [(0, 4, 8, 12, 16, 20)]
    assert goes_with(model, "qkv", 5)["table 1"] == (1,)


def test_norms_of_queries_are_scaled_instead_of_what_they_norm() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = tokens(n.stem(x))
        q, k, v = (heads_of(layer(y), n.heads) for layer in (n.q, n.k, n.v))
        z = F.scaled_dot_product_attention(n.q_norm(q), n.k_norm(k), v)
        return n.head(n.proj(z.transpose(1, 2).flatten(2)).mean(1))

    model = net(run, stem=conv(3, 6), q=linear(6, 8), k=linear(6, 8), v=linear(6, 8), proj=linear(8, 5), heads=2,
                q_norm=nn.LayerNorm(4), k_norm=nn.LayerNorm(4), head=linear(5, 2))  # fmt: skip
    queries = next(tied for tied in read(model) if tied.crossing)
    assert queries.scaled == {Slot("q_norm", name, 0): (0, 1, 2, 3) for name in ("weight", "bias")}


def test_attention_of_one_head_loses_dimensions_and_no_head() -> None:
    model = net(
        lambda n, x: n.head((y := tokens(n.stem(x))).mean(1) + packed(n, y).mean(1)),
        stem=conv(3, 8),
        qkv=linear(8, 24),
        proj=linear(8, 8),
        heads=1,
        head=linear(8, 2),
    )
    assert refusals(model) == {"stem": "", "qkv": "", "head": OUTPUTS}
    assert goes_with(model, "qkv", 9) == {"qkv.weight 0": (1, 9, 17), "proj.weight 1": (1,)}


def test_channels_that_attend_to_channels_have_no_dimension_that_goes_alone() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        q, k, v = n.qkv(tokens(n.stem(x))).reshape(1, -1, 3, n.heads, 4).permute(2, 0, 3, 4, 1)
        z = (q @ k.mT).softmax(-1) @ v
        return n.head(n.proj(z.permute(0, 3, 1, 2).reshape(1, -1, n.heads * 4)).mean(1))

    model = net(run, stem=conv(3, 6), qkv=linear(6, 24), proj=linear(8, 5), heads=2, head=linear(5, 2))
    assert crossing(model) == []


def test_a_sum_of_several_activations_is_noted() -> None:
    model = net(
        lambda n, x: n.head(pool((y := n.stem(x) + n.places) + n.two(n.one(y) * n.gate(y).sigmoid()))),
        stem=conv(3, 4), one=conv(4, 6), two=conv(6, 4), gate=conv(4, 6), places=weight(1, 4, SIDE, SIDE),
        head=linear(4, 2),
    )  # fmt: skip
    assert {next(iter(tied.slots)).module: tied.summed for tied in read(model)} == {
        "stem": True, "one": False, "head": False
    }  # fmt: skip
    model = net(lambda n, x: n.head(pool(n.stem(x) + n.places)), stem=conv(3, 4), places=weight(1, 4, SIDE, SIDE),
                head=linear(4, 2))  # fmt: skip
    assert not any(tied.summed for tied in read(model)), "a position embedding is no activation"


# What is refused


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x.softmax(1),
        lambda x: x.cumsum(1),
        lambda x: x.sort(1)[0],
        lambda x: torch.fft.fft2(x, dim=(1, 2)).real,
        lambda x: x.flatten(2).topk(4, 1)[0][..., None],
        lambda x: F.conv3d(x[:, None], torch.ones(1, 1, 3, 3, 3), padding=1)[:, 0],
    ],
)
def test_functions_along_channels_are_refused(mix: Callable[[Tensor], Tensor]) -> None:
    model = net(lambda n, x: n.head(pool(mix(n.stem(x)))), stem=conv(3, 4), head=linear(4, 2))
    assert refusals(model)["stem"] != ""
    assert refusals(model)["head"] == OUTPUTS


def test_parameters_that_nobody_uses_are_ignored() -> None:
    model = net(
        lambda n, x: n.head(pool(n.stem(x))), stem=conv(3, 4), spare=conv(4, 4), bare=weight(4), head=linear(4, 2)
    )
    assert goes_with(model, "stem", 1) == {"stem.weight 0": (1,), "head.weight 1": (1,)}
    assert not any(slot.module == "spare" or slot.tensor == "bare" for tied in read(model) for slot in tied.slots)


@pytest.mark.parametrize(
    "answer",
    [
        lambda n, x: n.head(pool(n.stem(x))).softmax(1),
        lambda n, x: n.head(pool(n.stem(x))) * n.scale,
        lambda n, x: n.head(pool(n.stem(x))),
        lambda n, x: torch.log(n.head(pool(n.stem(x))).sigmoid()),
    ],
)
def test_what_makes_the_outputs_stays(answer: Callable[[Any, Tensor], Tensor]) -> None:
    model = net(answer, stem=conv(3, 4), head=nn.Linear(4, 2), scale=weight(2))
    found = refusals(model)
    assert found["stem"] == ""
    assert found["head"] != ""


# Reading leaves no trace


def test_reading_changes_nothing() -> None:
    model = net(
        lambda n, x: n.head(pool(F.relu_(n.norm(n.stem(x))))),
        stem=conv(3, 4),
        norm=nn.BatchNorm2d(4),
        head=linear(4, 2),
    )
    model.stem.requires_grad_(False)
    norm = layer_of(model, "norm")
    norm.train()
    norm.register_forward_hook(lambda *_: None)
    tensors, before = list(model.parameters()), copy.deepcopy(model.state_dict())
    x = torch.randn(1, 3, SIDE, SIDE)
    seen = x.clone()
    norm.eval()
    trace_channels(model, x)
    assert torch.equal(x, seen)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(one is other for one, other in zip(tensors, model.parameters(), strict=True))
    assert [p.requires_grad for p in tensors] == [False, True, True, True]
    assert all(p.grad is None for p in tensors)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == [0, 0, 1, 0]
    assert torch.is_grad_enabled()


def test_a_forward_that_fails_leaves_no_trace() -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        n.stem(x)
        assert not torch.backends.mha.get_fastpath_enabled()
        raise ZeroDivisionError("for the test")

    model = net(run, stem=conv(3, 4))
    with pytest.raises(ZeroDivisionError, match="for the test"):
        read(model)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.is_grad_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert isinstance(torch.zeros(1) + 1, Tensor), "and no function is watched any more"


@pytest.mark.parametrize("enabled", [False, True])
def test_decomposed_puts_the_switch_back_as_it_was(enabled: bool) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(enabled)
        with unfused_attention(), unfused_attention():
            assert not torch.backends.mha.get_fastpath_enabled()
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_reading_twice_finds_the_same() -> None:
    model = net(
        lambda n, x: n.head((y := tokens(n.stem(x))).mean(1) + packed(n, y).mean(1)),
        stem=conv(3, 8), qkv=linear(8, 24), proj=linear(8, 8), heads=2, head=linear(8, 2),
    )  # fmt: skip
    assert read(model) == read(model)


# Any small network


class Random(nn.Module):
    """A network of `steps`: (kind, first input, second input, width), inputs counted back from the last map."""

    def __init__(self, steps: list[tuple[str, int, int, int]]) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3)
        self.plan: list[tuple[str, int, int]] = []
        self.layers = nn.ModuleList()
        widths, unread = [8], {0}
        for kind, first, second, width in steps:
            a, b = len(widths) - 1 - first % len(widths), len(widths) - 1 - second % len(widths)
            made, wide = self.step(kind, widths[a], widths[b], 4 * width)
            self.layers.append(made)
            self.plan.append((kind, a, b))
            unread -= {a, b} if kind in ("add", "cat", "gate") else {a}
            unread.add(len(widths))
            widths.append(wide)
        self.unread = tuple(sorted(unread))
        self.head = nn.Linear(sum(widths[at] for at in self.unread), 3)

    @staticmethod
    def step(kind: str, a: int, b: int, width: int) -> tuple[nn.Module, int]:
        """What it needs, and how many channels it makes."""
        made: dict[str, tuple[nn.Module, int]] = {
            "conv": (conv(a, width, 3, bias=True), width),
            "depthwise": (conv(a, a, 3, groups=a), a),
            "halves": (conv(a, width, 3, groups=2), width),
            "quarters": (conv(a, width, groups=4, bias=True), width),
            "norm": (nn.BatchNorm2d(a), a),
            "groups": (nn.GroupNorm(4, a), a),
            "add": (nn.Identity() if a == b else conv(b, a), a),
            "gate": (nn.Sequential(conv(b, 3), nn.ReLU(), conv(3, a), nn.Sigmoid()), a),
            "cat": (nn.Identity(), a + b),
            "swap": (nn.Identity(), a),
            "glu": (conv(a // 2, 4), 4),
            "shuffle": (nn.Identity(), a),
        }
        return made[kind]

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for (kind, first, second), layer in zip(self.plan, self.layers, strict=True):
            a, b = maps[first], maps[second]
            if kind == "add":
                y = F.relu(a + layer(b))
            elif kind == "gate":
                y = a * layer(b.mean((2, 3), keepdim=True))
            elif kind == "cat":
                y = torch.cat([a, b], 1)
            elif kind == "swap":
                y = torch.cat(a.chunk(2, 1)[::-1], 1)
            elif kind == "glu":
                one, other = a.chunk(2, 1)
                y = layer(one * other.sigmoid())
            elif kind == "shuffle":
                y = a.view(len(a), 2, -1, *a.shape[2:]).transpose(1, 2).reshape(a.shape)
            else:
                y = F.leaky_relu(layer(a), 0.1)
            maps.append(y)
        return self.head(pool(torch.cat([maps[at] for at in self.unread], 1)))


KINDS = ("conv", "depthwise", "halves", "quarters", "norm", "groups", "add", "gate", "cat", "swap", "glu", "shuffle")
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=8
)


def zeroed(model: nn.Module, groups: list[Group], removed: dict[str, tuple[int, ...]]) -> nn.Module:
    """A copy in which all that these channels are made of is zero."""
    copied = copy.deepcopy(model)
    for group in groups:
        for slot, rows in group.slots.items():
            tensor = getattr(copied.get_submodule(slot.module), slot.tensor)
            for channel in removed.get(group.name, ()):
                for index in rows[channel]:
                    tensor.select(slot.axis, index).zero_()
    return copied


@torch.no_grad()
@settings(max_examples=30)
@given(steps=STEPS, seed=st.integers(0, 99))
@example(steps=[("conv", 0, 0, 1), ("halves", 0, 0, 1), ("swap", 0, 0, 1)], seed=0)  # each half is one unit
def test_any_channels_of_any_network_may_go(steps: list[tuple[str, int, int, int]], seed: int) -> None:
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)  # noqa: S311 - no secret
    model = Random(steps).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5 if "running_var" in name else -1.0, 1.0, generator=generator)
    x = torch.randn(2, 3, 5, 5, generator=generator)
    groups = prunable_groups(model, shape=(3, 5, 5))
    allowed = {"", OUTPUTS, "they all depend on each other"}
    if "shuffle" in {kind for kind, *_ in steps}:  # whether its rows or its columns may go, nothing says
        allowed.add("removing them is not the same as zeroing them")
    assert {group.refused.partition(";")[0] for group in groups} <= allowed
    drawn = {
        group.name: tuple(rng.sample(group.order, rng.randint(1, len(group.order) - 1)))
        for group in groups
        if not group.refused
    }
    for removed in ([drawn] if len(drawn) > 1 else []) + [{name: channels} for name, channels in drawn.items()]:
        student = without_channels(model, groups, removed)
        expected = zeroed(model, groups, removed)(x)
        torch.testing.assert_close(student(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        again = copy.deepcopy(model)
        apply_plan(again, plan_between(model, student))
        again.load_state_dict(student.state_dict())
        assert torch.equal(again(x), student(x))
        assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
