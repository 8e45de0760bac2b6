"""Structured pruning to a share."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from layers import layer_of
from pruning.grouped import SHAPE, Attention, Network, Prune, ShapeOf, deep, groups_of, images
from torch import nn

from edgeoe.errors import PruningError
from edgeoe.pruning.groups import narrow_groups
from edgeoe.pruning.prune import Pruned, count_macs, count_params, drop_blocks, drop_channels, prune_channels
from edgeoe.pruning.verify import prunable_groups


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


def test_the_channels_with_the_least_l1_norm_go(network: Network, pruned: Prune) -> None:
    """Over the layer that makes a channel and the layer that reads it, which weigh the same."""
    chain, made = network("chain"), pruned("chain")
    assert set(made.removed) == {"0.0", "2.0", "4.0"}
    for layer, consumer in (("0.0", "2.0"), ("2.0", "4.0"), ("4.0", "8")):
        weight, read = chain.state_dict()[f"{layer}.weight"], chain.state_dict()[f"{consumer}.weight"]
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
    made = prune_channels(network(name), shape=shape_of(name), keep=0.5, channel_multiple=multiple)
    assert made.removed
    for layer in made.removed:
        left = len(layer_of(made.model, layer).weight)
        assert left % multiple == 0
        assert left > 0


def test_odd_channels_go_first_so_that_what_stays_is_a_multiple() -> None:
    torch.manual_seed(0)
    uneven = nn.Sequential(nn.Conv2d(3, 11, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(11, 3))
    made = prune_channels(uneven.eval(), shape=SHAPE, keep=8 / 11, channel_multiple=4)
    assert len(made.removed["0"]) == 3


def test_a_share_out_of_reach_gives_the_least(network: Network) -> None:
    made = prune_channels(network("chain"), shape=SHAPE, keep=0.001)
    assert 0.001 < made.macs_kept < 0.02
    assert {len(layer_of(made.model, name).weight) for name in made.removed} == {1}


def test_a_share_between_coarse_steps_gives_the_nearest(network: Network) -> None:
    shares = [
        prune_channels(network("chain"), shape=SHAPE, keep=keep, channel_multiple=8).macs_kept
        for keep in (0.99, 0.8, 0.7, 0.5, 0.1)
    ]
    assert shares[0] < 1, "a student is smaller than its teacher"
    assert shares == sorted(shares, reverse=True)
    assert min(shares) == pytest.approx(count_macs(chain_of(8, 8, 8), SHAPE) / count_macs(network("chain"), SHAPE))


def chain_of(*widths: int) -> nn.Module:
    """The widths of `chain`, for its MACs."""
    layers, before = [], 3
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 3))


def test_below_the_multiple_only_what_the_share_needs_is_halved(network: Network) -> None:
    def widths(keep: float, *, below: bool) -> list[int]:
        made = prune_channels(network("chain"), shape=SHAPE, keep=keep, channel_multiple=8, below_multiple=below)
        return [len(layer_of(made.model, f"{at}.0").weight) for at in (0, 2, 4)]

    assert widths(0.2, below=False) == widths(0.1, below=False) == [8, 8, 8]
    narrow = widths(0.1, below=True)
    assert min(narrow) < 8
    assert set(narrow) <= {16, 8, 4, 2, 1}
    met = prune_channels(network("chain"), shape=SHAPE, keep=0.4, channel_multiple=8).macs_kept
    assert widths(met, below=True) == widths(met, below=False), "a share that multiples meet is met by multiples"


def test_a_network_narrower_than_the_multiple_is_pruned_below_it(network: Network) -> None:
    made = prune_channels(network("chain"), shape=SHAPE, keep=0.5, channel_multiple=64, below_multiple=True)
    assert made.macs_kept == pytest.approx(0.5, abs=0.1)
    assert {len(layer_of(made.model, f"{at}.0").weight) for at in (0, 2, 4)} <= {16, 8, 4}


def test_a_network_of_which_nothing_can_go_says_why(network: Network) -> None:
    with pytest.raises(
        PruningError, match=r"no channel .*conv: the network fails without them.*head: they are the net"
    ):
        prune_channels(network("rigid"), shape=SHAPE, keep=0.5)


def test_a_network_that_is_too_small_for_the_multiple_says_so(network: Network) -> None:
    with pytest.raises(
        PruningError,
        match=r"can be pruned\. .*: too few channels for --channel-multiple 64; .*: they are the network's",
    ):
        prune_channels(network("chain"), shape=SHAPE, keep=0.5, channel_multiple=64)


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


# Measured costs


def test_where_costs_are_known_cheap_channels_go_first(network: Network) -> None:
    teacher = network("stages")
    groups = groups_of(teacher)
    dear, cheap = "early.0.one.0", "early.1.one.0"  # of one shape
    costs = {dear: (1.0,) * 7, cheap: (1e-6,) * 7}
    ranked = [
        replace(group, sensitivity=costs[name]) if name in costs else replace(group, refused="for the test")
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
        replace(group, sensitivity=(1.0,) * (len(group.order) - 1))
        if name in ("early.0.one.0", "late.0.one.0")
        else group
        for name, group in groups_of(teacher).items()
    ]
    ranked = [group if group.sensitivity else replace(group, refused="for the test") for group in ranked]
    made = prune_channels(teacher, shape=SHAPE, keep=0.9, groups=ranked)
    assert set(made.removed) == {"early.0.one.0"}, "its channels cost twice the MACs of the other's"


def test_a_cheap_channel_behind_a_dear_one_waits_for_it(network: Network) -> None:
    teacher = network("stages")
    costs = {"early.0.one.0": (5.0, *(0.0,) * 6), "early.1.one.0": (1.0,) * 7}
    ranked = [
        replace(group, sensitivity=costs[name]) if name in costs else replace(group, refused="for the test")
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
        else replace(group, sensitivity=tuple(10.0**-position for position in range(len(group.order) - 1)))
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
    layer_of(teacher, "early.0.one.0").weight[:4] *= 1e-3
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


def test_a_group_keeps_a_sixteenth_of_its_channels() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 40, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 3))
    made = prune_channels(wide.eval(), shape=SHAPE, keep=0.001)
    assert len(layer_of(made.model, "0").weight) == 3, "a sixteenth of 40, rounded up"


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
        assert all(len(layer_of(made.model, f"{at}").weight) % 4 == 0 for at in (0, 2))


@pytest.mark.parametrize(("multiple", "heads"), [(8, {4, 2}), (16, {4}), (4, {5, 4, 3, 2, 1})])
def test_heads_go_so_that_their_rows_stay_at_multiples(multiple: int, heads: set[int]) -> None:
    """Six heads of four: queries, keys and values have 4 rows a head each, 12 in all."""
    model = deep(Attention(6, 4))
    groups = narrow_groups(prunable_groups(model, shape=SHAPE), include=["1.qkv"])
    for keep in (0.7, 0.001):
        made = prune_channels(model, shape=SHAPE, keep=keep, channel_multiple=multiple, groups=groups)
        assert layer_of(made.model, "1.qkv").out_features % multiple == 0
        assert layer_of(made.model, "1.proj").in_features % multiple == 0
        assert layer_of(made.model, "1").heads in heads
    assert layer_of(made.model, "1").heads == min(heads)


def test_layers_of_which_one_has_several_rows_for_each_channel_stay_at_multiples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, groups=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)
    ).eval()  # fmt: skip
    made = prune_channels(model, shape=SHAPE, keep=0.5, channel_multiple=8)
    assert len(layer_of(made.model, "0").weight) == 8
    assert len(layer_of(made.model, "1").weight) == 16


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
    assert len(layer_of(start, "early.0.one.0").weight) == 8, "what it starts from is not changed"
    plain = drop_channels(teacher, groups, {"early.0.one.0": (5, 1)}, shape=SHAPE)
    left = [0, 2, 3, 4, 6, 7]
    weight = layer_of(plain.model, "early.0.one.0").weight
    assert torch.equal(weight, layer_of(teacher, "early.0.one.0").weight[left])
    assert plain.macs_kept == made.macs_kept == count_macs(made.model, SHAPE) / count_macs(teacher, SHAPE)
    assert plain.params_kept == made.params_kept == count_params(made.model) / count_params(teacher)
    assert plain.dropped == made.dropped == ()


def test_dropped_blocks_hand_on_what_they_are_given(network: Network) -> None:
    teacher = network("stages")
    made = drop_blocks(teacher, ["early.1", "late.0"], shape=SHAPE)
    assert made.dropped == ("early.1", "late.0")
    assert not made.removed
    assert made.macs == count_macs(teacher, SHAPE)
    block = 2 * 8 * 8 * 9 * 16 * 16
    assert made.macs_kept == pytest.approx(1 - 2 * block / made.macs)
    assert made.params_kept == count_params(made.model) / count_params(teacher)
    part = partial(layer_of, teacher)
    x = torch.relu(part("stem")(images()))
    x = part("late.1")(torch.relu(part("down")(part("early.0")(x))))
    torch.testing.assert_close(made.model(images()), part("head")(x.mean((2, 3))))
    assert not isinstance(part("early.1"), nn.Identity)
    assert not any(module.training for module in made.model.modules() if not isinstance(module, nn.Identity))


def test_dropping_no_blocks_keeps_everything(network: Network) -> None:
    made = drop_blocks(network("stages"), [], shape=SHAPE)
    assert (made.macs_kept, made.params_kept, made.dropped) == (1.0, 1.0, ())


@pytest.mark.parametrize("blocks_first", [True, False])
def test_two_cuts_in_a_row_are_one_of_the_same_teacher(network: Network, blocks_first: bool) -> None:
    teacher = network("stages")

    def narrow(model: nn.Module) -> Pruned:
        return prune_channels(model, shape=SHAPE, keep=0.8)

    def drop(model: nn.Module) -> Pruned:
        return drop_blocks(model, ["early.1"], shape=SHAPE)

    one, other = (drop, narrow) if blocks_first else (narrow, drop)
    first = one(teacher)
    both = first.then(other(first.model))
    assert (both.dropped, bool(both.removed), bool(both.groups)) == (("early.1",), True, True)
    assert both.macs == count_macs(teacher, SHAPE)
    assert both.macs_kept == pytest.approx(count_macs(both.model, SHAPE) / both.macs)
    assert both.params_kept == pytest.approx(count_params(both.model) / count_params(teacher))
    with pytest.raises(ValueError, match="can't both remove channels"):
        both.then(narrow(both.model))
