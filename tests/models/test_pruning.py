"""Channels go, and what is left computes what it should."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeoe.errors import PruningError
from edgeoe.models.channels import Fix
from edgeoe.models.checkpoint import apply_plan, plan_between
from edgeoe.models.pruning import (
    Group,
    Pruned,
    _filled,
    _Verification,
    count_macs,
    count_params,
    drop_blocks,
    drop_channels,
    narrow_groups,
    prunable_groups,
    prune_channels,
    without_channels,
)

SHAPE = (3, 16, 16)
Network = Callable[[str], nn.Module]
Prune = Callable[..., Pruned]
ShapeOf = Callable[[str], tuple[int, int, int]]


def images(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(7))


def test_count_macs_of_a_convolution() -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert count_macs(conv, (3, 16, 16)) == 8 * 8 * 8 * 3 * 3 * 3


def test_count_macs_of_a_grouped_convolution() -> None:
    assert count_macs(nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 16, 16)) == 16 * 16 * 4 * 3 * 3


def test_count_macs_of_a_linear_layer() -> None:
    assert count_macs(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5)), (3, 4, 4)) == 3 * 4 * 4 * 5


def test_count_params_counts_every_number() -> None:
    assert count_params(nn.Linear(4, 5)) == 4 * 5 + 5


@pytest.mark.parametrize(
    ("name", "keep"),
    [(name, keep) for name in ("residual", "chain") for keep in (0.92, 0.76, 0.5, 0.32)] + [("scaled", 0.5)],
)
def test_the_share_of_macs_is_met_within_2_percent(name: str, keep: float, network: Network, pruned: Prune) -> None:
    made = pruned(name, keep)
    kept = count_macs(made.model, SHAPE) / count_macs(network(name), SHAPE)
    assert kept == pytest.approx(keep, rel=0.02)
    assert made.macs_kept == pytest.approx(kept)
    assert made.macs == count_macs(network(name), SHAPE)
    assert made.params_kept == pytest.approx(count_params(made.model) / count_params(network(name)))
    assert made.model(images()).shape == (4, 3)


@pytest.mark.parametrize(
    ("name", "keep", "outputs"),
    [
        ("torchvision:resnet18", 0.5, "fc"),
        ("torchvision:mobilenet_v2", 0.5, "classifier.1"),
        ("timm:test_efficientnet", 0.5, "classifier"),
        ("timm:test_vit", 0.8, "head"),
    ],
)
def test_published_networks_are_cut_as_asked(
    name: str, keep: float, outputs: str, network: Network, pruned: Prune, shape_of: ShapeOf
) -> None:
    made, shape = pruned(name), shape_of(name)
    assert count_macs(made.model, shape) / count_macs(network(name), shape) == pytest.approx(keep, rel=0.02)
    assert made.model(images(shape)).shape == (4, 3)
    refused = {group.name: group.refused for group in made.groups if group.refused}
    assert refused.pop(outputs) == "they are the network's outputs"
    assert all(name.endswith("qkv") or name == "blocks.5.mlp.fc2" for name in refused), "attention's, before a norm"


def test_keeping_everything_removes_nothing(network: Network) -> None:
    made = prune_channels(network("chain"), shape=SHAPE, keep=1.0)
    assert made.removed == {}
    assert made.macs_kept == made.params_kept == 1.0


def test_a_zero_padded_shortcut_narrows_both_its_ends_and_keeps_what_meets_padding(pruned: Prune) -> None:
    made = pruned("residual")
    refused = {group.name: group.refused for group in made.groups if group.refused}
    assert refused["last.0"].startswith("the network fails without them"), "what the shortcut pads"
    assert refused["head"] == "they are the network's outputs"
    assert not made.removed.keys() & refused.keys()
    student = made.model.state_dict()
    width = len(student["stem.0.weight"])
    assert len(student["narrow.0.weight"]) == width < 8
    assert len(student["last.0.weight"]) == width + 8, "the eight channels that meet padding stay"
    assert made.model(images()).isfinite().all()


# The law that pruning rests on: removing a channel does what silencing it does. It is checked here without the
# code under test: after which modules a layer's channels have to be silenced was found by reading the networks.

SILENCED_AFTER: dict[str, dict[str, Any]] = {
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
        SILENCED_AFTER["torchvision:resnet18"][layer] = stream


def silence(model: nn.Module, name: str, removed: dict[str, tuple[int, ...]]) -> list[str]:
    """Let the outputs of `removed` be zeros from now on; the modules where that was done."""
    places = []
    for layer, channels in removed.items():
        for entry in SILENCED_AFTER[name][layer]:
            place, shift = entry if isinstance(entry, tuple) else (entry, 0)
            indices = [channel + shift for channel in channels]

            def zeroed(module: nn.Module, x: object, out: Tensor, indices: list[int] = indices) -> Tensor:
                out = out.clone()
                out[:, indices] = 0
                return out

            model.get_submodule(place).register_forward_hook(zeroed)
            places.append(place)
    return places


@pytest.mark.parametrize("name", list(SILENCED_AFTER))
def test_removing_channels_does_what_silencing_them_does(
    name: str, network: Network, pruned: Prune, shape_of: ShapeOf
) -> None:
    made, teacher, x = pruned(name), network(name), images(shape_of(name))
    before = teacher(x)
    places = silence(teacher, name, made.removed)
    assert len(places) == len(set(places)) > 0, "no place is silenced twice"
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


def test_the_channels_with_the_least_l1_norm_go(network: Network, pruned: Prune) -> None:
    """Over the layer that makes a channel and the layer that reads it, which weigh the same."""
    chain, made = network("chain"), pruned("chain")
    assert set(made.removed) == {"0.0", "2.0", "4.0"}
    for layer, reader in (("0.0", "2.0"), ("2.0", "4.0"), ("4.0", "8")):
        weight, read = chain.state_dict()[f"{layer}.weight"], chain.state_dict()[f"{reader}.weight"]
        norms = weight.abs().flatten(1).sum(1) + read.abs().transpose(0, 1).flatten(1).sum(1)
        least = norms.argsort()[: len(made.removed[layer])]
        assert set(made.removed[layer]) == set(least.tolist())


def test_every_group_loses_about_the_same_share(pruned: Prune) -> None:
    made = pruned("torchvision:resnet18")
    widths = {group.name: len(group.order) for group in made.groups}
    shares = [len(channels) / widths[name] for name, channels in made.removed.items()]
    assert max(shares) - min(shares) <= 1 / min(widths[name] for name in made.removed)


@pytest.mark.parametrize(("name", "multiple"), [("chain", 2), ("chain", 4), ("residual", 4), ("timm:test_resnet", 8)])
def test_channel_counts_stay_at_multiples(name: str, multiple: int, network: Network, shape_of: ShapeOf) -> None:
    teacher, shape = network(name), shape_of(name)
    try:
        made = prune_channels(teacher, shape=shape, keep=0.5, channel_multiple=multiple)
    except PruningError as reason:  # coarse steps: take the share that it says can be had
        nearest = re.search(r"nearest is (0\.\d+)", str(reason))
        assert nearest is not None
        made = prune_channels(teacher, shape=shape, keep=float(nearest[1]), channel_multiple=multiple)
    assert made.removed
    for layer in made.removed:
        left = len(made.model.get_submodule(layer).weight)
        assert left % multiple == 0
        assert left > 0


def test_odd_channels_go_first_so_that_what_stays_is_a_multiple() -> None:
    torch.manual_seed(0)
    uneven = nn.Sequential(nn.Conv2d(3, 11, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(11, 3))
    made = prune_channels(uneven.eval(), shape=SHAPE, keep=8 / 11, channel_multiple=4)
    assert len(made.removed["0"]) == 3


def test_a_share_out_of_reach_names_the_nearest_and_the_least(network: Network) -> None:
    with pytest.raises(PruningError, match=r"--keep-macs 0.001 can't be met within 2 %: the nearest is 0\.") as refused:
        prune_channels(network("chain"), shape=SHAPE, keep=0.001)
    least = re.search(r"the least (0\.\d+)", str(refused.value))
    assert least is not None
    made = prune_channels(network("chain"), shape=SHAPE, keep=float(least[1]))
    assert made.macs_kept == pytest.approx(float(least[1]), rel=0.02)
    assert {len(made.model.get_submodule(layer).weight) for layer in made.removed} == {1}


def test_too_coarse_a_multiple_is_named(network: Network) -> None:
    with pytest.raises(PruningError, match=r"finer steps than --channel-multiple 8"):
        prune_channels(network("chain"), shape=SHAPE, keep=0.8, channel_multiple=8)


def test_a_network_of_which_nothing_can_go_says_why(network: Network) -> None:
    with pytest.raises(
        PruningError, match=r"no channel .*conv: the network fails without them.*head: they are the net"
    ):
        prune_channels(network("rigid"), shape=SHAPE, keep=0.5)


def test_a_network_without_layers_says_so(network: Network) -> None:
    with pytest.raises(PruningError, match="No convolution or linear layer was found"):
        prune_channels(network("scalar"), shape=SHAPE, keep=0.5)


@pytest.mark.parametrize("name", ["residual", "chain", "scaled"])
def test_the_teacher_is_not_changed(name: str, network: Network) -> None:
    teacher = network(name)
    before, outputs = copy.deepcopy(teacher.state_dict()), teacher(images())
    student = prune_channels(teacher, shape=SHAPE, keep=0.5).model
    nn.init.zeros_(next(student.parameters()))
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert torch.equal(teacher(images()), outputs)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_same_teacher_is_always_cut_alike(network: Network, pruned: Prune) -> None:
    again = prune_channels(network("residual"), shape=SHAPE, keep=0.5)
    assert again.removed == pruned("residual").removed
    assert torch.equal(again.model(images()), pruned("residual").model(images()))


# Who makes a group's channels, and who reads them


def groups_of(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> dict[str, Group]:
    return {group.name: group for group in prunable_groups(model, shape=shape)}


def each(*channels: int) -> tuple[tuple[int, ...], ...]:
    return tuple((channel,) for channel in channels)


def test_a_group_knows_who_makes_and_who_reads_its_channels(network: Network) -> None:
    found = {frozenset(group.writers): group for group in groups_of(network("stages")).values()}
    stream = found[frozenset({"stem.0", "early.0.two.0", "early.1.two.0"})]
    assert set(stream.writers.values()) == {each(*range(8))}
    assert dict(stream.readers) == {name: each(*range(8)) for name in ("early.0.one.0", "early.1.one.0", "down.0")}
    last = found[frozenset({"down.0", "late.0.two.0", "late.1.two.0"})]
    assert dict(last.readers) == {name: each(*range(16)) for name in ("late.0.one.0", "late.1.one.0", "head")}
    inner = found[frozenset({"late.1.one.0"})]
    assert dict(inner.readers) == {"late.1.two.0": each(*range(16))}
    assert not found[frozenset({"head"})].readers


def test_a_map_that_is_flattened_gives_its_reader_many_inputs_a_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    assert groups_of(model.eval())["0"].readers == {"4": tuple(tuple(range(4 * c, 4 * c + 4)) for c in range(4))}


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
        for layer, spread in groups[group].writers.items():
            shapes[layer][0] -= sum(len(spread[channel]) for channel in channels)
        for layer, spread in groups[group].readers.items():
            shapes[layer][1] -= sum(len(spread[channel]) for channel in channels)
    student = {layer: list(made.model.get_submodule(layer).weight.shape[:2]) for layer in shapes}
    assert student == shapes


# Measured costs


def test_where_costs_are_known_cheap_channels_go_first(network: Network) -> None:
    teacher = network("stages")
    groups = groups_of(teacher)
    dear, cheap = "early.0.one.0", "early.1.one.0"  # of one shape
    costs = {dear: (1.0,) * 7, cheap: (1e-6,) * 7}
    ranked = [
        replace(group, cost=costs[name]) if name in costs else replace(group, refused="for the test")
        for name, group in groups.items()
    ]
    made = prune_channels(teacher, shape=SHAPE, keep=0.9, groups=ranked)
    assert made.macs_kept == pytest.approx(0.9, rel=0.02)
    assert set(made.removed) == {cheap}
    assert made.removed[cheap] == tuple(sorted(groups[cheap].order[: len(made.removed[cheap])]))
    assert {group.name for group in made.groups if group.refused == "for the test"} == set(groups) - set(costs)


def test_of_equal_errors_the_channels_that_save_more_go_first(network: Network) -> None:
    teacher = network("stages")
    ranked = [
        replace(group, cost=(1.0,) * (len(group.order) - 1)) if name in ("early.0.one.0", "late.0.one.0") else group
        for name, group in groups_of(teacher).items()
    ]
    ranked = [group if group.cost else replace(group, refused="for the test") for group in ranked]
    made = prune_channels(teacher, shape=SHAPE, keep=0.9, groups=ranked)
    assert set(made.removed) == {"early.0.one.0"}, "its channels cost twice the MACs of the other's"


def test_a_cheap_channel_behind_a_dear_one_waits_for_it(network: Network) -> None:
    teacher = network("stages")
    costs = {"early.0.one.0": (5.0, *(0.0,) * 6), "early.1.one.0": (1.0,) * 7}
    ranked = [
        replace(group, cost=costs[name]) if name in costs else replace(group, refused="for the test")
        for name, group in groups_of(teacher).items()
    ]
    made = prune_channels(teacher, shape=SHAPE, keep=0.86, groups=ranked)
    assert set(made.removed) == {"early.1.one.0"}


def test_without_costs_groups_shrink_alike_and_with_them_they_do_not(network: Network) -> None:
    teacher = network("stages")
    groups = groups_of(teacher)
    ranked = [
        group
        if group.refused
        else replace(group, cost=tuple(10.0**-position for position in range(len(group.order) - 1)))
        for group in groups.values()
    ]
    widths = {name: len(group.order) for name, group in groups.items()}
    plain, measured = (
        prune_channels(teacher, shape=SHAPE, keep=0.5, groups=given).removed for given in (groups.values(), ranked)
    )

    def spread(removed: dict[str, tuple[int, ...]]) -> float:
        shares = [len(removed.get(name, ())) / widths[name] for name, group in groups.items() if not group.refused]
        return max(shares) - min(shares)

    assert spread(plain) <= 1 / 8
    assert spread(measured) > 1 / 8


def test_where_groups_compete_the_channels_of_least_norm_go_wherever_they_are(network: Network) -> None:
    teacher = network("stages")
    teacher.early[0].one[0].weight[:4] *= 1e-3
    groups = prunable_groups(teacher, shape=SHAPE)
    alike, ranked = (
        prune_channels(teacher, shape=SHAPE, keep=0.85, compete=compete, groups=groups) for compete in (False, True)
    )
    assert len(alike.removed["early.0.one.0"]) <= 2
    assert {0, 1, 2, 3} <= set(ranked.removed["early.0.one.0"])
    norms = {group.name: dict(zip(group.order, group.norms, strict=True)) for group in groups if not group.refused}
    gone = [norms[name][channel] for name, channels in ranked.removed.items() for channel in channels]
    left = [
        norm for name in norms for channel, norm in norms[name].items() if channel not in ranked.removed.get(name, ())
    ]
    assert max(gone) <= min(left), "which the sixteenth that stays does not hold up here"


def test_norms_are_shares_of_their_groups_mean(network: Network) -> None:
    for group in groups_of(network("stages")).values():
        assert list(group.norms) == sorted(group.norms)
        assert sum(group.norms) == pytest.approx(len(group.order), rel=1e-4)


@pytest.mark.parametrize("keep", [0.8, 0.4])
def test_a_share_of_the_parameters_may_be_asked_for(keep: float) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 3)
    ).eval()
    made = prune_channels(teacher, shape=SHAPE, keep=keep, of="params")
    assert count_params(made.model) / count_params(teacher) == pytest.approx(keep, rel=0.02)
    assert made.params_kept == pytest.approx(keep, rel=0.02)
    assert made.macs_kept != pytest.approx(keep, rel=0.02)
    with pytest.raises(PruningError, match=r"--keep-params 0.001 can't be met within 2 %"):
        prune_channels(teacher, shape=SHAPE, keep=0.001, of="params")


def test_a_group_keeps_a_sixteenth_of_its_channels() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 40, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 3))
    with pytest.raises(PruningError, match="can't be met") as refused:
        prune_channels(wide.eval(), shape=SHAPE, keep=0.001)
    least = re.search(r"the least (0\.\d+)", str(refused.value))
    assert least is not None
    made = prune_channels(wide, shape=SHAPE, keep=float(least[1]))
    assert len(made.model[0].weight) == 3, "a sixteenth of 40, rounded up"


# What fills a cut up: five units of one group each, whose shares of the whole are in their rank


def share(units: Any) -> tuple[dict[str, tuple[int, ...]], float]:
    return {name: channels for _, name, channels in units}, 1 - sum(rank for rank, *_ in units)


def test_a_cut_that_would_overshoot_is_filled_with_smaller_units() -> None:
    units = [(0.1, "a", (0,)), (0.4, "b", (0,)), (0.1, "c", (0,)), (0.3, "d", (0,)), (0.1, "e", (0,))]
    removed, kept = _filled(units, 1, 0.7, share)
    assert set(removed) == {"a", "c", "e"}, "b waits, d would overshoot"
    assert kept == pytest.approx(0.7)


def test_what_waits_keeps_the_rest_of_its_group_waiting() -> None:
    units = [(0.1, "a", (0,)), (0.4, "b", (0,)), (0.1, "b", (1,)), (0.1, "c", (0,)), (0.1, "b", (2,))]
    removed, kept = _filled(units, 1, 0.7, share)
    assert set(removed) == {"a", "c"}
    assert kept == pytest.approx(0.8)


def test_a_cut_of_everything_is_not_filled() -> None:
    units = [(0.1, "a", (0,)), (0.1, "b", (0,))]
    assert _filled(units, 2, 0.5, share) == share(units)


def test_coarse_steps_reach_a_share_by_smaller_ones() -> None:
    """A dear unit of 16 channels stands before cheap ones: the share between is met without it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 128, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 3),
    ).eval()  # fmt: skip
    for keep in (0.9, 0.8, 0.7):
        made = prune_channels(model, shape=SHAPE, keep=keep, channel_multiple=4)
        assert made.macs_kept == pytest.approx(keep, rel=0.02)
        assert all(len(made.model[at].weight) % 4 == 0 for at in (0, 2))


# What the user wants pruned


def narrowed(groups: list[Group], **globs: Any) -> dict[str, str]:
    return {group.name: group.refused for group in narrow_groups(groups, **globs)}


def test_the_first_layer_stays_unless_it_is_named(network: Network) -> None:
    groups = list(groups_of(network("chain")).values())
    assert [group.name for group in groups] == ["0.0", "2.0", "4.0", "8"]
    stays = "the first layer stays as it is unless --include names it"
    outputs = "they are the network's outputs"
    assert narrowed(groups) == {"0.0": stays, "2.0": "", "4.0": "", "8": outputs}
    assert narrowed(groups, exclude=["4.*"]) == {
        "0.0": stays, "2.0": "", "4.0": "--exclude names it", "8": outputs
    }  # fmt: skip
    unnamed = "--include does not name it"
    assert narrowed(groups, include=["0.*", "8"]) == {"0.0": "", "2.0": unnamed, "4.0": unnamed, "8": outputs}
    assert narrowed(groups, include=["*"]) == {"0.0": "", "2.0": "", "4.0": "", "8": outputs}
    assert narrowed(groups, include=["[02].*"], exclude=["2.0"])["2.0"] == "--exclude names it"
    assert not groups[0].refused, "what is given is not changed"


def test_a_group_is_named_by_any_layer_that_makes_its_channels(network: Network) -> None:
    groups = list(groups_of(network("stages")).values())
    assert narrowed(groups, include=["early.1.two.0"])["stem.0"] == ""
    assert narrowed(groups, include=["*"], exclude=["early.1.two.0"])["stem.0"] == "--exclude names it"
    assert narrowed(groups, include=["nothing"])["down.0"] == "--include does not name it"


def test_all_that_the_first_layer_makes_stays() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.part, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 2, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(torch.cat([x[:, :2] + self.part(x[:, :2]), x[:, 2:]], 1).mean((2, 3)))

    torch.manual_seed(0)
    groups = list(groups_of(Uneven().eval()).values())
    assert {"stem", "stem#2"} <= {group.name for group in groups}
    assert all(narrowed(groups)[name] for name in ("stem", "stem#2"))


def test_what_is_narrowed_stays_whole(network: Network) -> None:
    teacher = network("stages")
    groups = narrow_groups(groups_of(teacher).values(), include=["early.*.one.0"])
    made = prune_channels(teacher, shape=SHAPE, keep=0.85, groups=groups)
    assert set(made.removed) <= {"early.0.one.0", "early.1.one.0"}


# Verification


class Counts(nn.Module):
    """A forward that counts its channels with its own number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.one, self.two = nn.Conv2d(8, width, 1), nn.Conv2d(width, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return x + self.two(torch.relu(self.one(x)).reshape(b, self.width, h, w))


class Rigid(Counts):
    """The same with a number that nobody can put right."""

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return x + self.two(torch.relu(self.one(x)).reshape(b, 10, h, w))


def deep(*blocks: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).eval()  # fmt: skip


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The groups of each verification, as they happen."""
    seen: list[list[str]] = []
    failure = _Verification._failure

    def spy(self: _Verification, groups: list[Group]) -> str:
        seen.append([group.name for group in groups])
        return failure(self, groups)

    monkeypatch.setattr(_Verification, "_failure", spy)
    return seen


def test_groups_of_one_kind_are_verified_at_once(tried: list[list[str]]) -> None:
    class Plain(Counts):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(torch.relu(self.one(x)))

    model = deep(*(Plain(10) for _ in range(6)))
    for block in model[1:7]:
        del block.width
    found = groups_of(model)
    assert [name for name, group in found.items() if group.refused] == ["9"]
    inner = [f"{at}.one" for at in range(1, 7)]
    assert [sorted(names) for names in tried] == [["0"], inner, ["0", *inner]], "a kind each, then all together"


@pytest.mark.parametrize("wrong", [0, 2, 3, 7])
def test_the_one_of_a_kind_that_can_not_go_is_singled_out(wrong: int, tried: list[list[str]]) -> None:
    model = deep(*(Rigid(10) if at == wrong else Counts(10) for at in range(8)))
    found = groups_of(model)
    assert {name for name, group in found.items() if group.refused} == {f"{wrong + 1}.one", "11"}
    assert "fails without them" in found[f"{wrong + 1}.one"].refused
    assert len(tried) < 40


def test_a_kind_of_which_none_can_go_is_given_up_early(tried: list[list[str]]) -> None:
    model = deep(*(Rigid(10) for _ in range(16)))
    found = groups_of(model)
    assert all(group.refused for name, group in found.items() if name != "0")
    assert not found["0"].refused
    assert len(tried) < 20


def test_numbers_that_count_channels_follow_them() -> None:
    model = deep(Counts(10), Counts(12))
    found = groups_of(model)
    assert found["1.one"].fixes == (Fix("1", "width", 1),)
    assert found["2.one"].fixes == (Fix("2", "width", 1),)
    student = without_channels(model, found.values(), {"1.one": (3, 4), "2.one": (0, 1, 11)})
    assert (student[1].width, student[2].width) == (8, 9)
    assert (model[1].width, model[2].width) == (10, 12)
    assert student(images()).shape == (4, 3)


def test_numbers_in_tuples_follow_them_too() -> None:
    class Scaled(nn.Module):
        """As in timm's MetaFormer."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.shape = (width, 1, 1)
            self.scale = nn.Parameter(torch.rand(width))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale.view(self.shape)

    model = deep(nn.Conv2d(8, 10, 1), Scaled(10), nn.Conv2d(10, 8, 1))
    group = groups_of(model)["1"]
    assert not group.refused
    student = without_channels(model, [group], {"1": (3, 4)})
    assert (student[2].shape, model[2].shape) == ((8, 1, 1), (10, 1, 1))
    again = copy.deepcopy(model)
    apply_plan(again, plan_between(model, student))
    again.load_state_dict(student.state_dict())
    assert torch.equal(again(images()), student(images()))


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


def test_heads_go_and_are_counted() -> None:
    model = deep(Attention(6, 4))
    group = groups_of(model)["1.qkv"]
    assert not group.refused
    assert group.fixes == (Fix("1", "heads", 1),)
    assert len(group.order) == 6
    student = without_channels(model, [group], {"1.qkv": (0, 4)})
    assert student[1].heads == 4
    assert student[1].qkv.out_features == 48
    assert student[1].proj.in_features == 16
    silenced = copy.deepcopy(model)
    for head in (0, 4):
        silenced[1].proj.weight.data[:, 4 * head : 4 * head + 4] = 0
    torch.testing.assert_close(student(images()), silenced(images()))


def test_a_number_of_the_network_that_is_as_large_as_its_heads_is_not_taken_for_them() -> None:
    class Patched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = 4
            self.body = deep(Attention(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(nn.functional.pixel_unshuffle(x, self.patch).unflatten(1, (3, -1)).mean(2))

    model = Patched().eval()
    found = groups_of(model)["body.1.qkv"]
    assert not found.refused
    assert found.fixes == (Fix("body.1", "heads", 1),)


@pytest.mark.parametrize(("multiple", "heads"), [(8, {4, 2}), (16, {4}), (4, {5, 4, 3, 2, 1})])
def test_heads_go_so_that_their_rows_stay_at_multiples(multiple: int, heads: set[int]) -> None:
    """Six heads of four: queries, keys and values have 4 rows a head each, 12 in all."""
    model = deep(Attention(6, 4))
    groups = narrow_groups(prunable_groups(model, shape=SHAPE), include=["1.qkv"])
    with pytest.raises(PruningError, match="the nearest is") as refused:
        prune_channels(model, shape=SHAPE, keep=0.001, channel_multiple=multiple, groups=groups)
    least = re.search(r"the least (0\.\d+)", str(refused.value))
    assert least is not None
    for keep in (0.7, float(least[1])):
        try:
            made = prune_channels(model, shape=SHAPE, keep=keep, channel_multiple=multiple, groups=groups)
        except PruningError:
            continue
        assert made.model[1].qkv.out_features % multiple == 0
        assert made.model[1].proj.in_features % multiple == 0
        assert made.model[1].heads in heads
    assert made.model[1].heads == min(heads)


def test_layers_of_which_one_has_several_rows_for_each_channel_stay_at_multiples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, groups=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)
    ).eval()  # fmt: skip
    made = prune_channels(model, shape=SHAPE, keep=0.5, channel_multiple=8)
    assert len(made.model[0].weight) == 8
    assert len(made.model[1].weight) == 16
    with pytest.raises(PruningError, match=r"nearest is (0\.5|1)"):
        prune_channels(model, shape=SHAPE, keep=0.75, channel_multiple=8)


def test_a_table_that_was_kept_from_an_earlier_pass_does_not_hold_channels_back() -> None:
    class Caching(nn.Module):
        """As in timm's LeViT: in eval mode what is computed from parameters alone is computed once."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)
            self.bias, self.bias_cache = nn.Parameter(torch.randn(8)), {}

        def forward(self, x: Tensor) -> Tensor:
            if "bias" not in self.bias_cache:
                self.bias_cache["bias"] = self.bias.sigmoid()
            return self.head((self.stem(x) * self.bias_cache["bias"].view(1, -1, 1, 1)).mean((2, 3)))

    torch.manual_seed(0)
    model = Caching().eval().requires_grad_(False)
    model(images())
    found = groups_of(model)["stem"]
    assert not found.refused
    assert without_channels(model, [found], {"stem": (1,)})(images()).shape == (4, 3)


def test_a_table_that_is_never_made_again_is_kept() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)
            self.means = {"red": torch.tensor(0.5)}

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.stem(x - self.means["red"])).mean((2, 3)))

    torch.manual_seed(0)
    model = Table().eval()
    assert not groups_of(model)["stem"].refused
    assert list(model.means) == ["red"]


# Dropping


def test_dropped_channels_may_start_from_other_weights_of_the_same_shape(network: Network) -> None:
    teacher = network("stages")
    start = copy.deepcopy(teacher)
    for parameter in start.parameters():
        parameter.fill_(0.5)
    groups = tuple(groups_of(teacher).values())
    made = drop_channels(teacher, groups, {"early.0.one.0": (5, 1)}, shape=SHAPE, start=start)
    assert made.removed == {"early.0.one.0": (1, 5)}
    assert made.groups == groups
    assert made.model.get_submodule("early.0.one.0").weight.shape == (6, 8, 3, 3)
    assert all((parameter == 0.5).all() for parameter in made.model.parameters())
    assert all((parameter == 0.5).all() for parameter in start.parameters())
    assert len(start.get_submodule("early.0.one.0").weight) == 8, "what it starts from is not changed"
    plain = drop_channels(teacher, groups, {"early.0.one.0": (5, 1)}, shape=SHAPE)
    left = [0, 2, 3, 4, 6, 7]
    weight = plain.model.get_submodule("early.0.one.0").weight
    assert torch.equal(weight, teacher.get_submodule("early.0.one.0").weight[left])
    assert plain.macs_kept == made.macs_kept == count_macs(made.model, SHAPE) / count_macs(teacher, SHAPE)
    assert plain.params_kept == made.params_kept == count_params(made.model) / count_params(teacher)
    assert plain.dropped == made.dropped == ()


def test_without_channels_is_a_copy(network: Network) -> None:
    teacher = network("stages")
    made = without_channels(teacher, (), {})
    assert torch.equal(made(images()), teacher(images()))
    nn.init.zeros_(made.get_submodule("stem.0").weight)
    assert bool(teacher.get_submodule("stem.0").weight.any())


def test_dropped_blocks_hand_on_what_they_are_given(network: Network) -> None:
    teacher = network("stages")
    made = drop_blocks(teacher, ["early.1", "late.0"], shape=SHAPE)
    assert made.dropped == ("early.1", "late.0")
    assert not made.removed
    assert made.macs == count_macs(teacher, SHAPE)
    block = 2 * 8 * 8 * 9 * 16 * 16
    assert made.macs_kept == pytest.approx(1 - 2 * block / made.macs)
    assert made.params_kept == count_params(made.model) / count_params(teacher)
    x = torch.relu(teacher.stem(images()))
    x = teacher.late[1](torch.relu(teacher.down(teacher.early[0](x))))
    torch.testing.assert_close(made.model(images()), teacher.head(x.mean((2, 3))))
    assert not isinstance(teacher.early[1], nn.Identity)
    assert not any(module.training for module in made.model.modules() if not isinstance(module, nn.Identity))


def test_dropping_no_blocks_keeps_everything(network: Network) -> None:
    made = drop_blocks(network("stages"), [], shape=SHAPE)
    assert (made.macs_kept, made.params_kept, made.dropped) == (1.0, 1.0, ())
