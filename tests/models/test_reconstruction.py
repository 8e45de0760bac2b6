"""Layers as regressions: moments, weights solved anew, and what a channel is worth; against brute force."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeoe.models import reconstruction
from edgeoe.models.reconstruction import (
    can_regress,
    columns,
    draw_places,
    matrix,
    norm_gain,
    obs_order,
    patches,
    positions,
    ridge,
    small_batches,
    take,
)

SEED = st.integers(0, 10_000)
SHAPE = (3, 16, 16)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer_like(layer: nn.Module, *, seed: int) -> Any:
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = numbers(*parameter.shape, seed=seed + number)
    return layer.requires_grad_(False)


@given(st.lists(st.integers(1, 80), min_size=1, max_size=4))
def test_small_batches_are_the_same_rows_in_their_order(sizes: list[int]) -> None:
    rows = [(numbers(size, 2, seed=size), torch.arange(float(size))) for size in sizes]
    small = small_batches(rows)
    assert max(len(x) for x, _ in small) <= 32
    for part in (0, 1):
        assert torch.equal(torch.cat([row[part] for row in small]), torch.cat([row[part] for row in rows]))
    assert len(small_batches(small)) == len(small)


# A layer is a matrix on patches


def all_patches(layer: nn.Module, x: Tensor, *, total: int, seed: int = 0) -> Tensor:
    return torch.cat(list(patches(layer, x, total=total, generator=torch.Generator().manual_seed(seed))), 1)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2) | st.sampled_from(["same", "valid"]),
    bias=st.booleans(),
    seed=SEED,
)
@settings(max_examples=60)
def test_a_convolution_is_its_matrix_on_patches(
    kernel: tuple[int, int], stride: int, dilation: int, padding: int | str, bias: bool, seed: int
) -> None:
    stride = 1 if padding == "same" else stride
    layer = layer_like(nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=bias), seed=seed)
    x = numbers(2, 3, 7, 6, seed=seed)
    u = all_patches(layer, x, total=2)
    made = u @ matrix(layer).T + (layer.bias if bias else 0)
    torch.testing.assert_close(made, positions(layer, layer(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_border_that_is_not_black_is_read_as_it_is(mode: Any) -> None:
    layer = layer_like(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode, bias=False), seed=0)
    x = numbers(2, 3, 5, 5)
    u = all_patches(layer, x, total=2)
    torch.testing.assert_close(u @ matrix(layer).T, positions(layer, layer(x)), rtol=1e-4, atol=1e-4)


@given(st.sampled_from([(2, 5), (2, 3, 5), (2, 2, 3, 5)]), st.booleans(), SEED)
def test_a_linear_layer_is_its_matrix_on_tokens(shape: tuple[int, ...], bias: bool, seed: int) -> None:
    layer = layer_like(nn.Linear(5, 4, bias=bias), seed=seed)
    x = numbers(*shape, seed=seed)
    u = all_patches(layer, x, total=2)
    assert u.shape == (2, x[0].numel() // 5, 5)
    torch.testing.assert_close(u @ matrix(layer).T + (layer.bias if bias else 0), positions(layer, layer(x)))


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1, stride=2, padding=1), nn.Conv2d(3, 4, (2, 3), padding=2, dilation=2)],
    ids=["plain", "1x1", "dilated"],
)
def test_drawn_patches_are_those_of_the_unfolded_image(monkeypatch: pytest.MonkeyPatch, layer: nn.Conv2d) -> None:
    monkeypatch.setattr(reconstruction, "_POINTS", 40)
    assert not isinstance(layer.padding, str)
    x = numbers(2, 3, 9, 9)
    every = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    places = draw_places(2, every.shape[1], total=2, generator=torch.Generator().manual_seed(0))
    assert places is not None
    drawn = all_patches(layer, x, total=2)
    assert drawn.shape == (2, 20, matrix(layer).shape[1])
    assert torch.equal(drawn, take(every, places))


def test_drawn_tokens_are_rows_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "_POINTS", 40)
    x = numbers(2, 30, 5)
    drawn = all_patches(nn.Linear(5, 4), x, total=2)
    assert torch.equal(drawn, take(x, draw_places(2, 30, total=2, generator=torch.Generator().manual_seed(0))))


def test_no_position_is_drawn_twice_and_an_image_keeps_at_least_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "_POINTS", 40)
    places = draw_places(2, 81, total=1000, generator=torch.Generator())
    assert places is not None
    assert places.shape == (2, 16)
    assert all(len(set(row)) == 16 for row in places.tolist())
    assert draw_places(2, 16, total=1000, generator=torch.Generator()) is None


@pytest.mark.parametrize("layer", [nn.Conv2d(5, 4, 3), nn.Linear(5, 4)], ids=["convolution", "linear"])
def test_patches_come_in_small_parts_with_one_result(monkeypatch: pytest.MonkeyPatch, layer: nn.Module) -> None:
    x = numbers(4, 5, 9, 9) if isinstance(layer, nn.Conv2d) else numbers(4, 49, 5)
    whole = all_patches(layer, x, total=4)
    floats = 4 * matrix(layer).shape[1]
    monkeypatch.setattr(reconstruction, "_PART", 10 * floats)
    parts = list(patches(layer, x, total=4, generator=torch.Generator()))
    assert [part.shape[1] for part in parts] == [10, 10, 10, 10, 9]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_taking_no_places_takes_all() -> None:
    rows = numbers(2, 4, 3)
    assert take(rows, None) is rows
    assert torch.equal(take(rows, torch.tensor([[3], [0]])), torch.stack([rows[0, 3:], rows[1, :1]]))


@pytest.mark.parametrize(
    ("layer", "able"),
    [
        (nn.Conv2d(4, 4, 3), True),
        (nn.Linear(4, 2), True),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.BatchNorm2d(4), False),
        (nn.Conv1d(4, 4, 3), False),
    ],
    ids=["convolution", "linear", "grouped", "norm", "1-d"],
)
def test_only_layers_whose_outputs_see_all_inputs_are_regressions(layer: nn.Module, able: bool) -> None:
    assert can_regress(layer) is able


@given(st.integers(1, 3), st.integers(2, 4), SEED)
def test_columns_are_those_that_read_a_channel(kernel: int, channels: int, seed: int) -> None:
    layer = layer_like(nn.Conv2d(2 * channels, 3, kernel), seed=seed)
    spread = [(channel, channels + channel) for channel in range(channels)]  # two inputs for each channel
    found = columns(layer, spread)
    for own, inputs in zip(found, spread, strict=True):
        zeroed = layer.weight.clone()
        zeroed[:, list(inputs)] = 0
        expected = matrix(layer).clone()
        expected[:, own] = 0
        assert torch.equal(expected, zeroed.flatten(1))


# Solving


@given(st.integers(1, 4), st.integers(1, 6), SEED)
def test_ridge_recovers_the_exact_weights(outputs: int, inputs: int, seed: int) -> None:
    u, w = numbers(60, inputs, seed=seed).double(), numbers(outputs, inputs, seed=seed + 1).double()
    found = ridge(u.T @ u, u.T @ (u @ w.T), prior=torch.zeros_like(w), damping=1e-9)
    torch.testing.assert_close(found, w, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 3), SEED)
def test_ridge_stays_at_the_prior_where_rows_say_nothing(outputs: int, seen: int, seed: int) -> None:
    u, prior = numbers(60, seen + 2, seed=seed).double(), numbers(outputs, seen + 2, seed=seed + 1).double()
    u[:, seen:] = 0
    w = numbers(outputs, seen + 2, seed=seed + 2).double()
    found = ridge(u.T @ u, u.T @ (u @ w.T), prior=prior, damping=1e-9)
    torch.testing.assert_close(found[:, seen:], prior[:, seen:])
    torch.testing.assert_close(found[:, :seen], w[:, :seen], rtol=1e-5, atol=1e-5)


def test_ridge_without_rows_is_the_prior() -> None:
    prior = numbers(3, 4)
    assert torch.equal(ridge(torch.zeros(4, 4), torch.zeros(4, 3), prior=prior), prior)


@given(st.floats(1e-3, 1), SEED)
def test_ridge_is_the_least_of_error_and_distance_from_the_prior(damping: float, seed: int) -> None:
    u, y, prior = (numbers(*shape, seed=seed + n).double() for n, shape in enumerate([(30, 4), (30, 3), (3, 4)]))
    g = u.T @ u

    def loss(w: Tensor) -> Tensor:
        return (u @ w.T - y).square().sum() + damping * g.diagonal().mean() * (w - prior).square().sum()

    found = ridge(g, u.T @ y, prior=prior, damping=damping).requires_grad_(True)
    loss(found).backward()
    assert found.grad is not None
    assert float(found.grad.abs().max()) < 1e-8


# Sparing channels


def least_error(problems: list[Any], gone: list[int]) -> float:
    """Squared error of all layers without those channels, the other weights solved anew; damped as `obs_order` is."""
    total = 0.0
    for moments, w, spread in problems:
        g = moments.double()
        g = g + reconstruction._DAMPING * g.diagonal().mean() * torch.eye(len(g), dtype=g.dtype)
        lost = torch.cat([spread[channel] for channel in gone])
        left = torch.tensor([column for column in range(len(g)) if column not in lost.tolist()], dtype=torch.long)
        new = torch.zeros_like(w, dtype=g.dtype)
        if len(left):
            new[:, left] = torch.linalg.solve(g[left][:, left], g[left] @ w.double().T).T
        difference = w.double() - new
        total += float((difference @ g * difference).sum())
    return total


def problems_of(channels: int, window: int, layers: int, seed: int) -> list[Any]:
    made = []
    for layer in range(layers):
        u = numbers(50, channels * window, seed=seed + layer).double()
        u = u @ (torch.eye(channels * window) + 0.4 * numbers(channels * window, channels * window, seed=seed)).double()
        spread = [torch.arange(window * c, window * (c + 1)) for c in range(channels)]
        made.append((u.T @ u / 50, numbers(2, channels * window, seed=seed + 9 + layer), spread))
    return made


@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 2), SEED)
@settings(max_examples=40)
def test_each_cost_is_the_least_squares_error_that_comes_on_top(
    channels: int, window: int, layers: int, seed: int
) -> None:
    problems = problems_of(channels, window, layers, seed)
    order, cost = obs_order(problems)
    assert sorted(order) == list(range(channels))
    assert len(cost) == channels - 1
    errors = [0.0, *(least_error(problems, list(order[: n + 1])) for n in range(channels - 1))]
    increases = [after - before for before, after in pairwise(errors)]
    assert list(cost) == pytest.approx(increases, rel=1e-4, abs=1e-7)


@given(st.integers(2, 5), SEED)
@settings(max_examples=20)
def test_of_the_channels_left_the_one_goes_whose_loss_adds_the_least(channels: int, seed: int) -> None:
    problems = problems_of(channels, 2, 2, seed)
    order, _ = obs_order(problems)
    for position in range(channels - 1):
        gone = list(order[:position])
        added = {c: least_error(problems, [*gone, c]) for c in range(channels) if c not in gone}
        assert added[order[position]] <= min(added.values()) * (1 + 1e-4) + 1e-9


def test_a_copy_of_another_channel_costs_nothing() -> None:
    u = numbers(80, 4).double()
    u[:, 2] = u[:, 0]
    order, cost = obs_order([(u.T @ u / 80, numbers(3, 4, seed=1), [torch.tensor([c]) for c in range(4)])])
    assert order[0] in (0, 2)
    assert cost[0] < 1e-3 * cost[1]


def test_moments_that_rounding_left_indefinite_are_still_ordered() -> None:
    g = torch.diag(torch.tensor([1.0, -0.01, 1.0]))
    order, cost = obs_order([(g, torch.ones(1, 3), [torch.tensor([c]) for c in range(3)])])
    assert sorted(order) == [0, 1, 2]
    assert all(value >= 0 for value in cost)


def test_a_floor_of_channels_is_left() -> None:
    order, cost = obs_order(problems_of(5, 1, 1, 0), floor=3)
    assert len(order) == 5
    assert len(cost) == 2


def test_wide_groups_go_several_at_a_time_but_each_only_once() -> None:
    channels = 3 * reconstruction._AT_ONCE
    u = numbers(2 * channels, channels).double()
    order, cost = obs_order([(u.T @ u, numbers(2, channels, seed=1), [torch.tensor([c]) for c in range(channels)])])
    assert sorted(order) == list(range(channels))
    assert len(cost) == channels - 1
    assert min(cost) >= 0


def test_the_gain_of_a_norm_is_what_it_multiplies_by() -> None:
    norm = nn.BatchNorm2d(4).eval()
    assert norm.running_var is not None
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, -2, 2)
    x = numbers(2, 4, 3, 3)
    gain = norm_gain(nn.Sequential(norm), "0", like=x[0, :, 0, 0])
    torch.testing.assert_close((norm(x) - norm(torch.zeros_like(x))), gain.view(1, -1, 1, 1) * x, rtol=1e-4, atol=1e-5)
    assert norm_gain(nn.Sequential(norm), None, like=x[0, :, 0, 0]).tolist() == [1.0] * 4
