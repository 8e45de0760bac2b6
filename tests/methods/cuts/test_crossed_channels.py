"""Channels chosen layer by layer on the cross-distillation loss."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import layer_of
from torch import Tensor, nn

from edgeoe.methods import View, compress_with
from edgeoe.methods.cuts import crossed_channels
from edgeoe.methods.cuts.channels import Channels
from edgeoe.methods.cuts.crossed_channels import CrossedChannels, choose_channels, cross_moments
from edgeoe.methods.recoveries.distillation import distillation
from edgeoe.models.layer_statistics import input_moments
from edgeoe.models.observation import HookPoint, capture
from edgeoe.models.reconstruction import columns, matrix
from edgeoe.pruning.prune import drop_channels
from edgeoe.settings import CompressSettings

SHAPE = (3, 16, 16)
SEED = st.integers(0, 10_000)
Network = Callable[[str], nn.Module]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def quick_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where any choice will do, 30 steps of descent choose too."""
    monkeypatch.setattr(crossed_channels, "choose_channels", partial(choose_channels, iterations=30))


@pytest.fixture
def asked(settings: CompressSettings) -> CompressSettings:
    return replace(settings, method="cd", keep_macs=0.7, steps=30)


# The loss


@given(st.floats(0, 1), SEED)
def test_the_moments_say_what_the_loss_says(mu: float, seed: int) -> None:
    """mu |W h_T - W_T h_T|^2 + (1 - mu) |W h_S - W_T h_S|^2, the layer's inputs h in teacher and student."""
    teacher, student, w, target = (numbers(*s, seed=seed + n) for n, s in enumerate([(9, 4), (9, 4), (3, 4), (3, 4)]))
    correction = (teacher @ w.T - teacher @ target.T).square().sum() / 9
    distillation = (student @ w.T - student @ target.T).square().sum() / 9
    g = cross_moments(teacher.T @ teacher / 9, student.T @ student / 9, mu=mu)
    found = torch.trace((w - target) @ g @ (w - target).T)
    assert float(found) == pytest.approx(float(mu * correction + (1 - mu) * distillation), rel=1e-9, abs=1e-12)


# Choosing


def problem(channels: int, window: int, seed: int, *, outputs: int = 3) -> tuple[Tensor, Tensor, list[Tensor]]:
    u, w = numbers(80, channels * window, seed=seed).float(), numbers(outputs, channels * window, seed=seed + 1).float()
    return u.T @ u / 80, w, [torch.arange(window * c, window * (c + 1)) for c in range(channels)]


@given(st.data(), st.integers(1, 6), st.integers(1, 3), st.integers(1, 2), SEED)
@settings(max_examples=20)
def test_exactly_so_many_channels_stay(data: Any, channels: int, window: int, layers: int, seed: int) -> None:
    keep = data.draw(st.integers(1, channels))
    problems = [problem(channels, window, seed + layer) for layer in range(layers)]
    weights = [w.clone() for _, w, _ in problems]
    stays = choose_channels(problems, keep=keep, iterations=25)
    assert len(set(stays)) == len(stays) == keep
    assert list(stays) == sorted(stays)
    assert set(stays) <= set(range(channels))
    assert all(torch.equal(before, w) for before, (_, w, _) in zip(weights, problems, strict=True)), "its own copies"


@given(st.permutations(range(6)), SEED)
@settings(max_examples=20)
def test_channels_without_weights_go_first(order: list[int], seed: int) -> None:
    problems = [problem(6, 2, seed), problem(6, 2, seed + 7)]
    for _, w, spread in problems:
        for channel in order[:3]:
            w[:, spread[channel]] = 0
        for channel in order[3:]:
            w[:, spread[channel]] = w[:, spread[channel]].sign() * (1 + w[:, spread[channel]].abs())
    for g, _, _ in problems:
        g.copy_(torch.eye(len(g)))  # none can stand in for another
    assert choose_channels(problems, keep=3, iterations=50) == tuple(sorted(order[3:]))


def test_layers_decide_together() -> None:
    """Channel 0 matters to one layer, 1 to the other, 2 a little to both: less than either."""
    one, other = problem(3, 1, 0), problem(3, 1, 1)
    for (g, w, _), strong in ((one, 0), (other, 1)):
        g.copy_(torch.eye(3))
        w.zero_()
        w[:, strong], w[:, 2] = 3.0, 1.0
    assert choose_channels([one, other], keep=2, iterations=50) == (0, 1)


def test_a_channel_that_others_stand_in_for_goes() -> None:
    """Descent between the cuts moves a copied channel's weight to its twin, which so outgrows the others."""
    g = torch.eye(4)
    g[0, 1] = g[1, 0] = 0.999  # channels 0 and 1 carry the same
    weights = torch.tensor([[0.6, 0.59, 0.8, 0.7]])  # by their norms 2 and 3 would stay
    stays = choose_channels([(g, weights, [torch.tensor([c]) for c in range(4)])], keep=2, iterations=400, lr=1e-2)
    assert stays == (0, 2)


def test_columns_of_no_channel_stay_out_of_it() -> None:
    g, w, spread = problem(4, 2, 3)
    bare = torch.zeros(3, 10)
    bare[:, :8], bare[:, 8:] = w, 100.0  # two more columns, which no channel owns
    wide = torch.eye(10)
    wide[:8, :8] = g
    assert choose_channels([(wide, bare, spread)], keep=2, iterations=30) == choose_channels(
        [(g, w, spread)], keep=2, iterations=30
    )


# The method


@pytest.mark.usefixtures("quick_choice")
def test_layers_that_lose_no_inputs_are_the_teachers(network: Network, still: Any, asked: CompressSettings) -> None:
    teacher = network("stages")
    made = CrossedChannels(replace(asked, keep_macs=0.9)).prune(teacher, still())
    groups = {group.name: group for group in made.groups}
    narrowed = {layer for name in made.removed for layer in groups[name].consumers}
    gone = {
        layer: {i for channel in channels for i in groups[name].producers[layer][channel]}
        for name, channels in made.removed.items()
        for layer in groups[name].producers
    }
    same = [n for n, m in teacher.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n not in narrowed]
    assert "stem.0" in same
    assert narrowed
    for name in same:
        weight = layer_of(teacher, name).weight
        left = [row for row in range(len(weight)) if row not in gone.get(name, set())]
        assert torch.equal(layer_of(made.model, name).weight, weight[left]), name
    for name in narrowed:
        assert layer_of(made.model, name).weight.shape[1] < layer_of(teacher, name).weight.shape[1]


@pytest.mark.usefixtures("quick_choice")
def test_a_narrowed_layer_is_the_least_of_the_loss(network: Network, still: Any, asked: CompressSettings) -> None:
    """In a chain the student so far is the teacher for the first layer that loses inputs: both moments are one."""
    teacher, bench = network("chain"), still()
    made = CrossedChannels(replace(asked, include=("*",))).prune(teacher, bench)
    (first,) = (group for group in made.groups if set(group.producers) == {"0.0"})
    lost = made.removed[first.name]
    assert lost
    reader = teacher.get_submodule("2.0")
    g = input_moments(teacher, {"2.0": reader}, bench.rows())["2.0"].double()
    left = torch.ones(len(g), dtype=torch.bool)
    for channel in lost:
        left[columns(reader, first.consumers["2.0"])[channel]] = False
    w = matrix(reader).double()
    exact = torch.linalg.solve(g[left][:, left], g[left] @ w.T).T
    rows = [
        n for n in range(16) if n not in set(made.removed[next(g.name for g in made.groups if "2.0" in g.producers)])
    ]
    found = matrix(made.model.get_submodule("2.0")).double()
    assert float((found - exact[rows]).norm() / exact[rows].norm()) < 0.02  # the damping's share


def test_solving_beats_leaving_the_weights_as_they_were(network: Network, still: Any, asked: CompressSettings) -> None:
    teacher, bench = network("stages"), still()
    made = CrossedChannels(asked).prune(teacher, bench)
    plain = drop_channels(teacher, made.groups, made.removed, shape=SHAPE)
    with torch.no_grad():
        expected = capture(teacher, bench.x, HookPoint("head"))[0]
        after, before = (float((model(bench.x) - expected).square().mean()) for model in (made.model, plain.model))
    assert after < 0.8 * before


@pytest.mark.usefixtures("quick_choice")
def test_widths_are_those_of_the_plain_cut_and_the_rest_is_fine_tuned(
    network: Network, still: Any, asked: CompressSettings
) -> None:
    teacher, bench = network("stages"), still()
    made = compress_with(asked, teacher, bench)
    plain = Channels(asked).prune(teacher, bench)
    assert {name: len(channels) for name, channels in made.pruned.removed.items()} == {
        name: len(channels) for name, channels in plain.removed.items()
    }
    assert made.pruned.macs_kept == plain.macs_kept
    (stage,) = bench.fitted
    assert (stage.lr, stage.max_steps, stage.label_weight) == (1e-5, 30, 1.0)
    assert made.fit.steps == 30
    student, taught = numbers(4, 3), numbers(4, 3, seed=1)
    expected = distillation(student, taught, temperature=4.0)
    assert torch.equal(stage.distance(View(student, ()), View(taught, ())), expected)


@pytest.mark.usefixtures("quick_choice")
def test_a_share_that_is_missed_is_noted_as_of_the_plain_cut(
    network: Network, still: Any, asked: CompressSettings
) -> None:
    far, bench = replace(asked, keep_macs=0.01), still()
    made = CrossedChannels(far).prune(network("chain"), bench)
    assert made.note == Channels(far).prune(network("chain"), bench).note != ""


@pytest.mark.usefixtures("quick_choice")
def test_fine_tuning_is_short_however_many_steps_are_allowed(
    network: Network, still: Any, asked: CompressSettings
) -> None:
    bench = still()
    compress_with(replace(asked, steps=5000), network("chain"), bench)
    assert bench.fitted[0].max_steps == 100


def test_a_reader_that_is_used_twice_stays_as_it_is(still: Any, asked: CompressSettings) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.shared, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.inner(torch.relu(self.stem(x))))
            return self.head(torch.relu(self.shared(torch.relu(self.shared(x)))).mean((2, 3)))

    torch.manual_seed(0)
    bench = still()
    made = CrossedChannels(replace(asked, keep_macs=0.7315, include=("*",))).prune(
        Twice().eval().requires_grad_(False), bench
    )
    assert made.macs_kept == pytest.approx(0.7315, rel=0.02)
    assert made.model(bench.x).isfinite().all()
