"""Sensitivity of groups: shares of the variance that pruning disturbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from layers import layer_of
from torch import Tensor, nn
from torch.nn import functional as F

from edgeoe.models import sensitivity
from edgeoe.models.observation import HookPoint, capture
from edgeoe.models.reconstruction import columns, matrix, obs_order
from edgeoe.models.sensitivity import measure_sensitivity
from edgeoe.models.structure import read_structure
from edgeoe.pruning.groups import Group
from edgeoe.pruning.verify import prunable_groups

SHAPE = (3, 16, 16)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ones(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.ones(len(x)))]


@pytest.fixture
def chain(network: Callable[[str], nn.Module]) -> nn.Module:
    return network("chain")


def costs(model: nn.Module, x: Tensor) -> dict[str, Group]:
    groups = tuple(prunable_groups(model, shape=SHAPE))
    return {g.name: g for g in measure_sensitivity(model, groups, read_structure(model, SHAPE), ones(x))}


def test_costs_are_shares_of_the_variance_that_they_disturb(chain: nn.Module) -> None:
    x = numbers(8, *SHAPE)
    found = costs(chain, x)
    group = found["0.0"]
    consumer = chain.get_submodule("2.0")
    u = F.unfold(capture(chain, x, HookPoint("2.0", "input"))[0], 3, padding=1)
    u = u.transpose(1, 2).flatten(0, 1).double()
    variance = (u @ matrix(consumer).double().T).var(0).sum()
    problem = (u.T @ u / len(u) / variance, matrix(consumer), columns(consumer, group.consumers["2.0"]))
    assert len(group.sensitivity) == len(group.order) - 1
    assert list(group.sensitivity) == pytest.approx(list(obs_order([problem])[1]), rel=1e-3)


def test_a_last_part_of_a_single_image_has_a_variance_too(network: Callable[[str], nn.Module]) -> None:
    model, x = network("stages"), numbers(9, *SHAPE)
    (group,) = (group for group in prunable_groups(model, shape=SHAPE) if "head" in group.consumers)
    structure, weight = read_structure(model, SHAPE), torch.ones(9)
    (whole,) = measure_sensitivity(model, [group], structure, [(x, weight)])
    (parts,) = measure_sensitivity(model, [group], structure, [(x[:8], weight[:8]), (x[8:], weight[8:])])
    assert min(parts.sensitivity) > 0
    assert list(parts.sensitivity) == pytest.approx(list(whole.sensitivity), rel=1e-3)


def passes_and_groups(model: nn.Module, rows: list[tuple[Tensor, Tensor]]) -> tuple[int, int, list[Group]]:
    """Forward passes that measuring took, steps of progress, and the groups."""
    calls, steps = [], []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Any]:
        yield lambda: steps.append(title)

    groups, structure = prunable_groups(model, shape=SHAPE), read_structure(model, SHAPE)
    with model.register_forward_pre_hook(lambda *_: calls.append(1)):
        measured = list(measure_sensitivity(model, groups, structure, rows, progress=progress))
    return len(calls), steps.count("Measuring layers"), measured


def test_each_batch_runs_once_unless_the_moments_would_not_fit(
    network: Callable[[str], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = network("stages"), numbers(6, *SHAPE)
    rows = [*ones(x[:3]), *ones(x[3:])]
    calls, steps, whole = passes_and_groups(model, rows)
    assert (calls, steps) == (2, 2)
    monkeypatch.setattr(sensitivity, "_MOMENTS", 1)
    calls, steps, parts = passes_and_groups(model, rows)
    assert (calls, steps) == (12, 12)
    assert parts == whole


@pytest.mark.parametrize(("fits", "sizes"), [(1, [1, 1, 1, 1, 1, 2]), (2 * 144**2, [3, 1, 3]), (10**9, [7])])
def test_groups_of_one_pass_have_moments_that_fit_and_those_without_need_no_pass(
    network: Callable[[str], nn.Module], monkeypatch: pytest.MonkeyPatch, fits: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(sensitivity, "_MOMENTS", fits)
    model = network("stages")
    groups = prunable_groups(model, shape=SHAPE)
    parts = list(sensitivity.in_passes(model, groups))
    assert [group for part in parts for group in part] == list(groups)
    assert [len(part) for part in parts] == sizes


def test_costs_do_not_depend_on_the_scale_of_a_layer(chain: nn.Module) -> None:
    x = numbers(8, *SHAPE)
    plain = costs(chain, x)["0.0"].sensitivity
    layer_of(chain, "2.0").weight.mul_(100)
    assert list(costs(chain, x)["0.0"].sensitivity) == pytest.approx(list(plain), rel=1e-3)


def test_the_order_of_a_group_stays_and_refused_groups_keep_their_reason(network: Callable[[str], nn.Module]) -> None:
    model = network("residual")
    plain = {group.name: group for group in prunable_groups(model, shape=SHAPE)}
    found = costs(model, numbers(8, *SHAPE))
    assert found.keys() == plain.keys()
    assert any(group.refused for group in plain.values())
    for name, group in found.items():
        assert group.order == plain[name].order
        assert bool(group.sensitivity) != bool(group.refused)
        if plain[name].refused:
            assert replace(group, sensitivity=()) == plain[name]


def test_a_group_that_no_regression_reads_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ).eval()
    group = prunable_groups(model, shape=SHAPE)[0]
    alone = replace(group, consumers={"1": tuple((channel,) for channel in range(4))})
    (found,) = measure_sensitivity(model, [alone], read_structure(model, SHAPE), ones(numbers(2, *SHAPE)))
    assert found.refused == "no consumer of its channels can be refitted"
    assert not found.sensitivity
