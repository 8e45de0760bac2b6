"""One currency of loss: what the outputs of real images change by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from layers import layer_of
from torch import Tensor, nn

from edgeoe.methods.cuts.losses import Losses, Reference, measure_losses, thinned
from edgeoe.methods.cuts.parts import Parts, block_choice
from edgeoe.models.reconstruction import Rows
from edgeoe.models.structure import read_structure
from edgeoe.pruning.removal import without_blocks
from edgeoe.pruning.verify import prunable_groups

SHAPE = (3, 16, 16)
Network = Callable[[str], nn.Module]
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def rows(count: int = 24, *, weight: Tensor | None = None) -> Rows:
    g = torch.Generator().manual_seed(5)
    x, random = torch.randn(count, *SHAPE, generator=g), 0.5 + torch.rand(count, generator=g)
    return [*zip(x.split(10), (random if weight is None else weight).split(10), strict=True)]


def parts_of(teacher: nn.Module, *, blocks: bool = True) -> Parts:
    structure = read_structure(teacher, SHAPE)
    groups = tuple(
        replace(group, refused="read by the head") if structure.head in group.consumers else group
        for group in prunable_groups(teacher, shape=SHAPE)
    )
    return Parts(teacher, SHAPE, groups, structure.blocks if blocks else (), multiple=1, most_widths=4)


def reference_of(teacher: nn.Module, of: Rows | None = None) -> Reference:
    return Reference(teacher, read_structure(teacher, SHAPE), rows() if of is None else of)


# How far a student is from its teacher


@pytest.mark.parametrize("name", ["stages", "residual", "chain"])
def test_a_teacher_is_no_distance_from_itself(name: str, network: Network) -> None:
    teacher = network(name)
    assert reference_of(teacher).change(teacher) == 0
    assert reference_of(teacher).change(copy.deepcopy(teacher)) == 0


def test_any_other_network_is_at_a_distance(network: Network) -> None:
    teacher = network("stages")
    reference = reference_of(teacher)
    one, both = (reference.change(without_blocks(teacher, names)) for names in (["early.0"], ["early.0", "early.1"]))
    assert one > 0
    assert both > 0
    assert one != both


def test_a_change_is_a_share_of_the_teachers_variance(network: Network) -> None:
    """Features and logits of a network that answers with their mean: once the variance of each."""
    teacher = network("stages")
    x, weight = (torch.cat([row[part] for row in rows()]) for part in (0, 1))
    share = weight / weight.sum()
    logits = teacher(x)
    changed = copy.deepcopy(teacher)
    layer_of(changed, "head").weight.zero_()
    layer_of(changed, "head").bias.copy_((logits * share[:, None]).sum(0))
    assert reference_of(teacher).change(changed) == pytest.approx(1.0, rel=1e-4), "features are the same"


def test_a_change_has_no_scale(network: Network) -> None:
    """Logits and features three times as large, in teacher and student."""
    teacher = network("chain")
    student = copy.deepcopy(teacher)
    layer_of(student, "4.0").weight.mul_(0.8)
    before = reference_of(teacher).change(student)
    for model in (teacher, student):
        for tensor in (layer_of(model, "4.1").weight, layer_of(model, "4.1").bias):
            tensor.mul_(3)
    assert before > 0
    assert reference_of(teacher).change(student) == pytest.approx(before, rel=1e-3)


def test_rows_count_by_their_weight(network: Network) -> None:
    teacher = network("stages")
    student = without_blocks(teacher, ["late.0"])
    some, times = rows(6)[0][0], torch.tensor([1, 3, 1, 2, 1, 4])
    weighted = reference_of(teacher, [(some, times.float())]).change(student)
    repeated = some.repeat_interleave(times, 0)
    assert weighted == pytest.approx(reference_of(teacher, [(repeated, torch.ones(len(repeated)))]).change(student))
    assert weighted != pytest.approx(reference_of(teacher, [(some, torch.ones(6))]).change(student))


def test_logits_count_twice_where_the_features_are_of_another_number(network: Network) -> None:
    teacher = network("chain")
    narrower = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    layer_of(narrower, "4").weight.zero_()
    x, weight = (torch.cat([row[part] for row in rows()]) for part in (0, 1))
    layer_of(narrower, "4").bias.copy_((teacher(x) * (weight / weight.sum())[:, None]).sum(0))
    features = read_structure(teacher, SHAPE).features
    named = nn.Sequential()
    parent, _, child = features.module.rpartition(".")
    assert parent == ""
    named.add_module(child, narrower[:2])  # the features of the student, under the teacher's name of them
    named.add_module("rest", narrower[2:])
    assert reference_of(teacher).change(named.eval()) == pytest.approx(2.0, rel=1e-4)


# Losses of options


@pytest.fixture(scope="module")
def measured(network: Network, no_gradients: None) -> tuple[Parts, Losses]:
    parts = parts_of(network("stages"))
    return parts, measure_losses(parts.teacher, parts, rows())


def test_every_option_has_a_loss_and_whole_parts_have_none(measured: tuple[Parts, Losses]) -> None:
    parts, losses = measured
    assert losses.options.keys() == {choice.name for choice in parts.choices(losses.options)}
    for group in parts.narrowed:
        assert len(losses.options[group.name]) == len(parts.levels[group.name]) + 1
        assert sorted(losses.orders[group.name]) == list(range(len(group.order)))
    for block in parts.blocks:
        whole, dropped = losses.options[block_choice(block.name)]
        assert (whole, dropped > 0) == (0, True)
    assert all(options[0] == 0 and options[1] > 0 for options in losses.options.values())


@pytest.mark.parametrize("name", ["stages", "residual", "chain"])
def test_to_prune_more_never_loses_less(name: str, network: Network) -> None:
    parts = parts_of(network(name), blocks=False)
    losses = measure_losses(parts.teacher, parts, rows())
    assert losses.options
    for options in losses.options.values():
        assert list(options) == sorted(options), options


def test_the_loss_of_the_narrowest_is_what_its_repaired_student_changes(
    measured: tuple[Parts, Losses], network: Network
) -> None:
    """At least as much as the layers that read it can make up for, and less than without their repair."""
    parts, losses = measured
    reference = reference_of(network("stages"), thinned(rows(), 128))
    for group in parts.narrowed:
        last = len(parts.levels[group.name])
        bare = parts.student({group.name: last}, orders=losses.orders).model
        assert 0 < losses.options[group.name][-1] < reference.change(bare), group.name


def test_channels_that_do_nothing_lose_nothing(network: Network) -> None:
    teacher = network("stages")
    layer_of(teacher, "early.0.two.1").weight.zero_()
    layer_of(teacher, "early.0.two.1").bias.zero_()
    parts = parts_of(teacher)
    losses = measure_losses(teacher, parts, rows())
    others = [options[-1] for name, options in losses.options.items() if "early.0" not in name]
    assert losses.options["early.0.one.0"][-1] < 1e-3 * min(others)


def test_channels_that_others_make_up_for_go_first(network: Network) -> None:
    """The second channel of a convolution is the first again."""
    teacher = network("chain")
    for layer, keys in (("2.0", ["weight"]), ("2.1", ["weight", "bias", "running_mean", "running_var"])):
        for key in keys:
            getattr(layer_of(teacher, layer), key)[1] = getattr(layer_of(teacher, layer), key)[0]
    parts = parts_of(teacher)
    losses = measure_losses(teacher, parts, rows())
    assert {*losses.orders["2.0"][:3]} & {0, 1}, "beside those that a rectifier switches off"


def test_measuring_leaves_the_teacher_as_it_is(network: Network) -> None:
    teacher = network("stages")
    before, hooks = copy.deepcopy(teacher.state_dict()), hooks_of(teacher)
    measure_losses(teacher, parts_of(teacher), rows())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert hooks_of(teacher) == hooks


def hooks_of(model: nn.Module) -> list[object]:
    return [h for m in model.modules() for h in [*m._forward_hooks.values(), *m._forward_pre_hooks.values()]]


def test_losses_are_the_same_again(measured: tuple[Parts, Losses], network: Network) -> None:
    parts = parts_of(network("stages"))
    assert measure_losses(parts.teacher, parts, rows()) == measured[1]


# Fewer images


@pytest.mark.parametrize(("images", "count"), [(24, 8), (24, 24), (24, 100), (100, 33), (7, 1)])
def test_thinned_rows_are_evenly_spaced_images_with_their_weights(images: int, count: int) -> None:
    of = rows(images)
    x, weight = (torch.cat([row[part] for row in of]) for part in (0, 1))
    few = thinned(of, count)
    every = max(1, images // count)
    assert torch.equal(torch.cat([row[0] for row in few]), x[::every])
    assert torch.equal(torch.cat([row[1] for row in few]), weight[::every])
    assert count <= sum(len(row[0]) for row in few) <= 2 * count or images <= count
