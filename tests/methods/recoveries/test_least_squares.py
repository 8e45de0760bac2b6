"""1x1 convolutions after pruned layers, solved by least squares and merged."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layers import layer_of
from torch import Tensor, nn

from edgeoe.methods import compress_with
from edgeoe.methods.cuts.channels import Channels
from edgeoe.methods.recoveries.least_squares import solve_layer
from edgeoe.models.observation import HookPoint, capture, capture_sum
from edgeoe.models.repair import kept_outputs
from edgeoe.models.structure import read_structure
from edgeoe.pruning.prune import Pruned, drop_channels
from edgeoe.pruning.verify import prunable_groups
from edgeoe.settings import CompressSettings

SHAPE = (3, 16, 16)
Network = Callable[[str], nn.Module]


def cut(teacher: nn.Module, layer: str, channels: tuple[int, ...]) -> Pruned:
    """`teacher` without those channels of the group that `layer` alone makes."""
    groups = tuple(prunable_groups(teacher, shape=SHAPE))
    (name,) = (group.name for group in groups if set(group.producers) == {layer})
    return drop_channels(teacher, groups, {name: channels}, shape=SHAPE)


def every(layer: Any) -> Tensor:
    return torch.arange(len(layer.weight))


def mean_square(difference: Tensor, weights: Tensor) -> float:
    return float((difference.square().flatten(1).mean(1) * weights).sum() / weights.sum())


# One layer


@torch.no_grad()
def test_solving_brings_a_layer_nearer_to_the_teachers(network: Network, still: Any) -> None:
    teacher, bench = network("chain"), still()
    student = cut(teacher, "0.0", (1, 4, 6)).model
    target = capture(teacher, bench.x, HookPoint("2.1"))[0]

    def distance() -> float:
        return mean_square(capture(student, bench.x, HookPoint("2.1"))[0] - target, bench.weights)

    before, layer = distance(), student.get_submodule("2.0")
    solve_layer(student, teacher, "2.0", every(layer), read_structure(teacher, SHAPE), bench.rows())
    assert distance() < 0.9 * before


@torch.no_grad()
def test_no_other_1x1_convolution_does_better(network: Network, still: Any) -> None:
    """The solution's error has no slope in Q and q, as the layer's shift goes into its norm."""
    teacher, bench = network("chain"), still(weights=torch.ones(24))
    pruned = cut(teacher, "0.0", (1, 4, 6))
    z = capture(pruned.model, bench.x, HookPoint("2.0"))[0].transpose(0, 1).flatten(1)  # (O, rows)
    target = capture(teacher, bench.x, HookPoint("2.0"))[0].transpose(0, 1).flatten(1)
    exact = torch.linalg.lstsq(F.pad(z, (0, 0, 0, 1), value=1).T.double(), target.T.double()).solution.T
    layer, norm = (copy.deepcopy(layer_of(pruned.model, name)) for name in ("2.0", "2.1"))
    solve_layer(pruned.model, teacher, "2.0", every(layer), read_structure(teacher, SHAPE), bench.rows())
    solved = layer_of(pruned.model, "2.0").weight.flatten(1)
    expected = exact[:, :-1] @ layer.weight.flatten(1).double()
    assert float((solved - expected).norm() / expected.norm()) < 0.02  # the damping's share
    shift = norm.running_mean - layer_of(pruned.model, "2.1").running_mean
    assert float((shift - exact[:, -1]).abs().max()) < 0.02 * float(target.abs().max())


@torch.no_grad()
def test_the_merged_layer_is_the_1x1_convolution_after_it(network: Network, still: Any) -> None:
    """A bias takes the shift; the outputs lie in the span of the unsolved layer's and a constant."""
    torch.manual_seed(0)
    teacher = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ).eval()
    bench, student = still(), cut(teacher, "0", (0, 3)).model
    rows, z = capture(student, bench.x, HookPoint("2", "input"))[0], capture(student, bench.x, HookPoint("2"))[0]
    solve_layer(student, teacher, "2", torch.arange(4), read_structure(teacher, SHAPE), bench.rows())
    merged = layer_of(student, "2")(rows).transpose(0, 1).flatten(1)
    design = F.pad(z.transpose(0, 1).flatten(1), (0, 0, 0, 1), value=1)
    found = torch.linalg.lstsq(design.T.double(), merged.T.double()).solution.T
    explicit = F.conv2d(z, found[:, :4, None, None].float(), found[:, 4].float())
    torch.testing.assert_close(explicit, layer_of(student, "2")(rows), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(z, layer_of(student, "2")(rows), atol=1e-2), "something was solved"


@torch.no_grad()
def test_in_a_residual_sum_it_is_the_sum_that_comes_nearer(network: Network, still: Any) -> None:
    teacher, bench = network("stages"), still()
    student = cut(teacher, "early.0.one.0", (0, 2, 5)).model
    structure = read_structure(teacher, SHAPE)
    layer_of(student, "stem.1").running_mean.add_(0.1)  # what comes down the shortcut is wrong too
    name = "early.0.two.0"

    def sums(model: nn.Module) -> Tensor:
        _, left, right = capture_sum(model, bench.x, name, structure.sums[name])
        return left + right

    target = sums(teacher)
    before = mean_square(sums(student) - target, bench.weights)
    branch = copy.deepcopy(student)
    solve_layer(student, teacher, name, torch.arange(8), structure, bench.rows())
    alone = replace(structure, sums={})  # were the branch alone made right
    solve_layer(branch, teacher, name, torch.arange(8), alone, bench.rows())
    after, if_alone = (mean_square(sums(model) - target, bench.weights) for model in (student, branch))
    assert after < 0.9 * before
    assert after < if_alone


@torch.no_grad()
def test_no_other_1x1_convolution_brings_the_sum_nearer(network: Network, still: Any) -> None:
    """The best affine map from the layer's output to what the sum lacks; the norm between them scales each channel."""
    teacher, bench, name = network("stages"), still(weights=torch.ones(24)), "early.0.two.0"
    student, structure = cut(teacher, "early.0.one.0", (0, 2, 5)).model, read_structure(teacher, SHAPE)
    layer_of(student, "stem.1").running_mean.add_(0.1)

    def flat(x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1).T.double()  # (rows, O)

    def sums(model: nn.Module) -> tuple[Tensor, Tensor]:
        y, left, right = capture_sum(model, bench.x, name, structure.sums[name])
        return y, left + right

    z, before = sums(student)
    shortcut = before - student.get_submodule("early.0.two.1")(z)
    _, target = sums(teacher)
    design = F.pad(flat(z), (0, 1), value=1)
    wanted = flat(target - shortcut)
    best = (design @ torch.linalg.lstsq(design, wanted).solution - wanted).square().mean(0)
    solve_layer(student, teacher, name, torch.arange(8), structure, bench.rows())
    error = flat(sums(student)[1] - target).square().mean(0)
    assert bool((error < 1.02 * best).all()), "the damping's share"
    assert float(best.sum()) < 0.5 * float(flat(before - target).square().mean(0).sum())


@torch.no_grad()
def test_a_norm_that_lets_nothing_through_is_not_divided_by(network: Network, still: Any) -> None:
    """No output of the layer can put the sum right then: its own output is the target."""
    teacher, bench, name = network("stages"), still(), "early.0.two.0"
    layer_of(teacher, "early.0.two.1").weight.zero_()
    structure, solved = read_structure(teacher, SHAPE), []
    for sums in (structure.sums, {}):
        student = cut(teacher, "early.0.one.0", (0, 2, 5)).model
        layer_of(student, "stem.1").running_mean.add_(0.1)
        solve_layer(student, teacher, name, torch.arange(8), replace(structure, sums=sums), bench.rows())
        solved.append(layer_of(student, name).weight)
    assert solved[0].isfinite().all()
    torch.testing.assert_close(solved[0], solved[1])


@torch.no_grad()
def test_a_layer_without_bias_or_norm_is_solved_without_a_shift(still: Any) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ).eval()
    bench, student = still(weights=torch.ones(24)), cut(teacher, "0", (0, 3)).model
    z, target = (
        capture(m, bench.x, HookPoint("2"))[0].transpose(0, 1).flatten(1).T.double() for m in (student, teacher)
    )
    exact = torch.linalg.lstsq(z, target).solution.T @ layer_of(student, "2").weight.flatten(1).double()
    solve_layer(student, teacher, "2", torch.arange(4), read_structure(teacher, SHAPE), bench.rows())
    assert float((layer_of(student, "2").weight.flatten(1) - exact).norm() / exact.norm()) < 0.02


@torch.no_grad()
@pytest.mark.parametrize("name", ["2.0", "4.0", "8"])
def test_with_nothing_wrong_nothing_changes(name: str, network: Network, still: Any) -> None:
    teacher = network("chain")
    student, structure = copy.deepcopy(teacher), read_structure(teacher, SHAPE)
    solve_layer(student, teacher, name, every(student.get_submodule(name)), structure, still().rows())
    for key, value in student.state_dict().items():
        torch.testing.assert_close(value, teacher.state_dict()[key], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_rows_that_weigh_nothing_are_not_solved_for(network: Network, still: Any) -> None:
    teacher, structure = network("chain"), read_structure(network("chain"), SHAPE)
    first = torch.cat([torch.ones(12), torch.zeros(12)])
    solved = []
    for rows in (still(weights=first).rows(), still(weights=first).rows()[:1], still(weights=torch.ones(24)).rows()):
        student = cut(teacher, "0.0", (1, 4, 6)).model
        solve_layer(student, teacher, "2.0", torch.arange(16), structure, rows)
        solved.append(layer_of(student, "2.0").weight)
    torch.testing.assert_close(solved[0], solved[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(solved[0], solved[2], atol=1e-3)


@torch.no_grad()
def test_a_row_that_weighs_3_counts_as_three(network: Network, still: Any) -> None:
    teacher, structure, x = network("chain"), read_structure(network("chain"), SHAPE), still().x[:6]
    times = torch.tensor([1, 3, 1, 2, 1, 4])
    repeated, solved = x.repeat_interleave(times, 0), []
    for rows in ([(x, times.float())], [(repeated, torch.ones(len(repeated)))]):
        student = cut(teacher, "0.0", (1, 4, 6)).model
        solve_layer(student, teacher, "2.0", torch.arange(16), structure, rows)
        solved.append(layer_of(student, "2.0").weight)
    torch.testing.assert_close(solved[0], solved[1], rtol=1e-3, atol=1e-4)


def test_kept_outputs_are_those_that_no_group_lost(network: Network) -> None:
    teacher = network("chain")
    pruned = cut(teacher, "2.0", (0, 3, 15))
    assert kept_outputs(teacher, pruned, "2.0").tolist() == [n for n in range(16) if n not in (0, 3, 15)]
    assert kept_outputs(teacher, pruned, "4.0").tolist() == list(range(16))


# The method


@pytest.mark.parametrize("name", ["chain", "stages", "residual"])
def test_the_student_comes_nearer_to_its_teacher_than_the_bare_cut(
    name: str, network: Network, still: Any, settings: CompressSettings
) -> None:
    teacher, bench, asked = network(name), still(), replace(settings, method="fskd", keep_macs=0.6)
    plain = Channels(asked).prune(teacher, bench)
    made = compress_with(asked, teacher, bench)
    assert made.pruned.removed == plain.removed
    assert (made.fit.steps, made.fit.agreement) == (0, None)
    assert not bench.fitted, "no gradient"
    with torch.no_grad():
        expected = teacher(bench.x)
        after, before = (
            mean_square(model(bench.x) - expected, bench.weights) for model in (made.pruned.model, plain.model)
        )
    assert after < 0.8 * before


def test_layers_that_lost_no_inputs_are_the_teachers(network: Network, still: Any, settings: CompressSettings) -> None:
    teacher = network("stages")
    made = compress_with(replace(settings, method="fskd", keep_macs=0.97), teacher, still())
    narrowed = {name for group in made.pruned.groups if group.name in made.pruned.removed for name in group.consumers}
    same = [
        name
        for name, module in teacher.named_modules()
        if isinstance(module, nn.Conv2d) and name not in narrowed and len(made.pruned.removed) > 0
    ]
    assert "stem.0" in same
    for name in same:
        kept = kept_outputs(teacher, made.pruned, name)
        own, weight = layer_of(made.pruned.model, name).weight, layer_of(teacher, name).weight
        assert torch.equal(own, weight[kept]), name


def test_depthwise_layers_are_not_solved(network: Network, still: Any, settings: CompressSettings) -> None:
    """A 1x1 convolution after one would make it a full convolution."""
    teacher = network("residual")
    made = compress_with(replace(settings, method="fskd", keep_macs=0.6), teacher, still())
    kept = kept_outputs(teacher, made.pruned, "depthwise.0")
    assert len(kept) < 16
    own, weight = (layer_of(model, "depthwise.0").weight for model in (made.pruned.model, teacher))
    assert torch.equal(own, weight[kept])
