"""MACs and parameters of pruned networks by arithmetic are those that are counted."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning.grouped import SHAPE, Attention, Network, deep
from torch import Tensor, nn

from edgeoe.pruning.arithmetic import Arithmetic, operations
from edgeoe.pruning.groups import Group, random_units
from edgeoe.pruning.prune import count_macs, count_params, prune_channels
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.verify import prunable_groups


class Covariance(nn.Module):
    """Attention between channels, as in XCiT: the lengths of its products are widths."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.v, self.proj = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = x.flatten(2).mT
        mixed = (self.q(y).mT @ self.v(y)).mean(1, keepdim=True)
        return x + self.proj(self.v(y) * mixed).mT.reshape(b, -1, h, w)


class Standardised(nn.Conv2d):
    """A convolution that computes its weights from its own."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - of the base class
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(input, weight, self.bias)


def twice() -> nn.Module:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    return deep(layer, nn.ReLU(), layer)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: deep(Attention(6, 4), nn.Conv2d(8, 10, 3, stride=2), nn.Conv2d(10, 8, 1), Attention(5, 2)),
    "three heads": lambda: deep(*(Attention(3, 4) for _ in range(4))),
    "covariance": lambda: deep(Covariance(), Covariance()),
    "standardised": lambda: deep(Standardised(8, 12, 1), Standardised(12, 8, 1)),
    "grouped": lambda: deep(nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 8, 1)),
    "twice": twice,
}


def known(model: nn.Module) -> tuple[list[Group], Arithmetic]:
    groups = prunable_groups(model, shape=SHAPE)
    return groups, Arithmetic(model, SHAPE, groups)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), every=st.integers(1, 3))
def test_arithmetic_gives_what_is_counted_in_a_pruned_network(name: str, seed: int, every: int) -> None:
    model = NETWORKS[name]()
    groups, arithmetic = known(model)
    assert arithmetic.macs_known
    assert arithmetic.params_known
    free = [group for group in groups if not group.refused]
    removed = random_units(free[seed % every :: every], torch.Generator().manual_seed(seed))
    student = without_channels(model, groups, removed)
    assert arithmetic.macs_without(removed) == count_macs(student, SHAPE)
    assert arithmetic.params_without(removed) == count_params(student)


@pytest.mark.parametrize("name", ["stages", "residual", "chain", "scaled"])
def test_networks_of_files_too(name: str, network: Network) -> None:
    model = network(name)
    groups, arithmetic = known(model)
    removed = random_units([group for group in groups if not group.refused], torch.Generator().manual_seed(1))
    student = without_channels(model, groups, removed)
    assert (arithmetic.macs, arithmetic.params) == (count_macs(model, SHAPE), count_params(model))
    assert arithmetic.macs_without(removed) == count_macs(student, SHAPE)
    assert arithmetic.params_without(removed) == count_params(student)


def test_an_operation_names_the_weight_that_it_multiplies_by() -> None:
    noted = operations(deep(Attention(6, 4)), SHAPE)
    assert [operation.weight for operation in noted] == [
        ("0", "weight"), ("1.qkv", "weight"), None, None, ("1.proj", "weight"), ("4", "weight")
    ]  # fmt: skip
    assert [operation.lengths for operation in noted if operation.weight is None] == [
        (6, 256, 4, 256), (6, 256, 256, 4)
    ]  # fmt: skip
    assert {operation.module for operation in noted if operation.weight is None} == {"1"}


def test_nothing_is_known_where_two_layers_share_a_weight() -> None:
    first, second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    second.weight = first.weight
    _, arithmetic = known(deep(first, second))
    assert not arithmetic.params_known
    assert not arithmetic.macs_known


class Chooses(nn.Module):
    """Runs a layer more often the wider another is: MACs that follow from no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.more = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.one(x))
        for _ in range(y.shape[1] // 4):
            self.more(x)
        return x + self.two(y)


def test_where_arithmetic_is_wrong_networks_are_counted() -> None:
    model = deep(Chooses())
    pruned = prune_channels(model, shape=SHAPE, keep=0.6)
    assert pruned.macs_kept == count_macs(pruned.model, SHAPE) / count_macs(model, SHAPE)
    assert pruned.macs_kept == pytest.approx(0.6, rel=0.1)


def test_a_cut_counts_the_teacher_and_the_student_alone(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("stages")
    groups = prunable_groups(model, shape=SHAPE)
    counted = []

    def count(model: nn.Module, shape: tuple[int, int, int]) -> int:
        counted.append(model)
        return count_macs(model, shape)

    monkeypatch.setattr("edgeoe.pruning.prune.count_macs", count)
    pruned = prune_channels(model, shape=SHAPE, keep=0.5, groups=groups)
    assert counted == [pruned.model]
