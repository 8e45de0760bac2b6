"""Statistics of layers: streamed, they are what all activations at once give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeoe.models import reconstruction
from edgeoe.models.layer_statistics import input_moments, layer_statistics
from edgeoe.models.observation import HookPoint, capture, capture_sum
from edgeoe.models.reconstruction import Rows, can_regress, matrix, norm_gain, positions
from edgeoe.models.structure import Structure, read_structure

SEED = st.integers(0, 10_000)
SHAPE = (3, 16, 16)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ones(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.ones(len(x)))]


def in_batches(x: Tensor, weight: Tensor, sizes: list[int]) -> Rows:
    return list(zip(x.split(sizes), weight.split(sizes), strict=True))


@pytest.fixture
def chain(network: Callable[[str], nn.Module]) -> nn.Module:
    return network("chain")


def lively(model: nn.Module) -> nn.Module:
    """`model` with norms that shift, scale and turn signs."""
    for number, module in enumerate(model.modules()):
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(numbers(module.num_features, seed=number))
            module.running_var.copy_(numbers(module.num_features, seed=number).square() + 0.5)
            nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(number))
    return model.eval().requires_grad_(False)


class Tokens(nn.Module):
    """Linear layers on tokens: one straight into a residual sum, one behind an activation function."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.wide, self.narrow = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 12), nn.Linear(12, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(1))


class InPlace(nn.Module):
    """Rectifiers and sums that overwrite what was observed, a norm before the sum, and additions that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False)
        self.norm, self.down = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.one(x)) + 0.5
        y = self.norm(self.two(x))
        y += self.down(x)
        return self.head(F.relu_(y).mean((2, 3)))


def networks() -> dict[str, Callable[[Callable[[str], nn.Module]], nn.Module]]:
    torch.manual_seed(0)
    return {
        "chain": lambda network: network("chain"),
        "residual": lambda network: network("residual"),
        "stages": lambda network: network("stages"),
        "tokens": lambda _: Tokens(),
        "in place": lambda _: InPlace(),
    }


def naive_moments(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        u = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2).double()
    else:
        u = x.reshape(len(x), -1, x.shape[-1]).double()
    return torch.einsum("n,npi,npj->ij", weight.double() / (weight.sum() * u.shape[1]), u, u)


def naive_scale(model: nn.Module, structure: Structure, name: str, x: Tensor) -> Tensor:
    layer, norm = model.get_submodule(name), None
    if name in structure.sums:
        norm = structure.sums[name].norm
        _, left, right = capture_sum(model, x, name, structure.sums[name])
        y = left + right
    else:
        (y,) = capture(model, x, HookPoint(name))
    rows = positions(layer, y).flatten(0, 1).double()
    return (
        norm_gain(model, norm, like=matrix(layer)[:, 0].double()).abs().double()
        / rows.var(0).sum().clamp(min=1e-12).sqrt()
    )


@pytest.mark.parametrize("sizes", [[7], [3, 3, 1]], ids=["one batch", "three batches"])
@pytest.mark.parametrize("name", networks())
def test_statistics_are_those_of_all_activations_at_once(
    network: Callable[[str], nn.Module], name: str, sizes: list[int]
) -> None:
    model = lively(networks()[name](network))
    structure = read_structure(model, SHAPE)
    layers = {layer: model.get_submodule(layer) for layer in structure.layers if layer != structure.head}
    layers = {layer: module for layer, module in layers.items() if can_regress(module)}
    x, weight = numbers(7, *SHAPE), torch.rand(7, generator=torch.Generator().manual_seed(0))
    statistics = layer_statistics(model, layers, structure, in_batches(x, weight, sizes))
    assert list(statistics) == list(layers)
    assert bool(structure.sums) == (name != "chain")
    for layer, module in layers.items():
        (layer_input,) = capture(model, x, HookPoint(layer, "input"))
        expected = naive_moments(module, layer_input, weight)
        tolerance = float(1e-4 * expected.abs().max())
        torch.testing.assert_close(statistics[layer].moments.double(), expected, rtol=1e-4, atol=tolerance)
        scale = naive_scale(model, structure, layer, x)
        torch.testing.assert_close(statistics[layer].scale.double(), scale, rtol=1e-4, atol=1e-5)


def test_layers_of_one_sum_share_its_variance_and_keep_their_gain() -> None:
    model = lively(InPlace())
    structure = read_structure(model, SHAPE)
    assert structure.sums["two"].index == structure.sums["down"].index
    layers = {name: model.get_submodule(name) for name in ("two", "down")}
    both = layer_statistics(model, layers, structure, ones(numbers(4, *SHAPE)))
    gain = norm_gain(model, "norm", like=torch.ones(8)).abs()
    torch.testing.assert_close(both["two"].scale, both["down"].scale * gain)


@pytest.mark.parametrize("alone", ["early.0.one.0", "late.1.two.0"])
def test_a_layer_has_the_same_statistics_whatever_else_is_measured(
    network: Callable[[str], nn.Module], monkeypatch: pytest.MonkeyPatch, alone: str
) -> None:
    monkeypatch.setattr(reconstruction, "_POINTS", 200)  # so that positions are drawn
    model = lively(network("stages"))
    structure = read_structure(model, SHAPE)
    layers = {name: model.get_submodule(name) for name in structure.layers}
    rows = in_batches(numbers(6, *SHAPE), torch.ones(6), [4, 2])
    every = layer_statistics(model, layers, structure, rows)
    single = layer_statistics(model, {alone: layers[alone]}, structure, rows)
    assert torch.equal(every[alone].moments, single[alone].moments)
    assert torch.equal(every[alone].scale, single[alone].scale)
    assert torch.equal(every[alone].moments, input_moments(model, layers, rows)[alone])


def test_each_batch_runs_once_and_only_as_far_as_needed(chain: nn.Module) -> None:
    calls: list[str] = []
    for name in ("0.0", "0.1", "1", "2.0", "2.1", "8"):
        chain.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    structure = read_structure(chain, SHAPE)
    calls.clear()
    x = numbers(5, *SHAPE)
    rows = [*ones(x[:2]), *ones(x[2:])]
    layers = {name: chain.get_submodule(name) for name in ("0.0", "2.0")}
    layer_statistics(chain, layers, structure, rows)
    assert calls == 2 * ["0.0", "0.1", "1", "2.0"]


def test_moments_are_the_weighted_mean_over_patches(chain: nn.Module) -> None:
    x, weight = numbers(4, *SHAPE), torch.tensor([1.0, 2.0, 0.0, 3.0])
    layers = {name: chain.get_submodule(name) for name in ("2.0", "8")}
    found = input_moments(chain, layers, [(x, weight)])
    u = F.unfold(capture(chain, x, HookPoint("2.0", "input"))[0], 3, padding=1).transpose(1, 2)
    expected = torch.einsum("n,npi,npj->ij", weight / (6 * u.shape[1]), u, u)
    torch.testing.assert_close(found["2.0"], expected, rtol=1e-4, atol=1e-4)
    pooled = capture(chain, x, HookPoint("8", "input"))[0]
    torch.testing.assert_close(found["8"], torch.einsum("n,ni,nj->ij", weight / 6, pooled, pooled))


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any), SEED)
@settings(max_examples=10)
def test_a_weight_counts_as_repeated_rows_do(times: list[int], seed: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    layers, x = {"2": model[2]}, numbers(3, 3, 7, 7, seed=seed)
    repeated = torch.cat([row[None].repeat(n, 1, 1, 1) for row, n in zip(x, times, strict=True)])
    with torch.no_grad():
        weighted = input_moments(model, layers, [(x, torch.tensor(times).float())])["2"]
        plain = input_moments(model, layers, ones(repeated))["2"]
    torch.testing.assert_close(weighted, plain, rtol=1e-4, atol=1e-5)


def test_rows_in_parts_are_one_mean_and_progress_is_told(chain: nn.Module) -> None:
    told: list[Any] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Any]:
        told.append(total)
        yield lambda: told.append("part")

    x, weight = numbers(5, *SHAPE), torch.rand(5, generator=torch.Generator().manual_seed(0))
    layers = {"4.0": chain.get_submodule("4.0")}
    whole = input_moments(chain, layers, [(x, weight)])["4.0"]
    parts = input_moments(chain, layers, [(x[:2], weight[:2]), (x[2:], weight[2:])], progress=progress)["4.0"]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    assert told == [2, "part", "part"]
