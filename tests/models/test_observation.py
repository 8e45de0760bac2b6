"""Streamed activations: seen once each, while the network runs, and the pass ends after the last."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.models.observation import HookPoint, capture, capture_sum, stream
from edgeoe.models.structure import read_structure

SHAPE = (3, 16, 16)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def stages(network: Callable[[str], nn.Module]) -> nn.Module:
    return network("stages").requires_grad_(False)


def test_what_is_streamed_is_what_is_captured(stages: nn.Module) -> None:
    points = (HookPoint("early.0.one.0", "input"), HookPoint("early.0.one.0"), HookPoint("late.1.two.0"))
    places = read_structure(stages, SHAPE).sums
    streamed: dict[HookPoint | int, Tensor] = {}

    def keep(place: HookPoint | int) -> Callable[[Tensor], None]:
        def clone(tensor: Tensor) -> None:
            streamed[place] = tensor.clone() + 1 - 1  # additions of an observer count as none

        return clone

    x, indices = images(), {place.index for place in places.values()}
    stream(stages, x, {point: keep(point) for point in points}, {index: keep(index) for index in indices})
    assert streamed.keys() == {*points, *indices}
    for point in points:
        torch.testing.assert_close(streamed[point], capture(stages, x, point)[0])
    for layer, place in places.items():
        _, left, right = capture_sum(stages, x, layer, place)
        torch.testing.assert_close(streamed[place.index], left + right)


def test_the_pass_ends_after_the_last_place(stages: nn.Module) -> None:
    calls: list[int] = []
    stages.get_submodule("down").register_forward_pre_hook(lambda *_: calls.append(1))
    place = read_structure(stages, SHAPE).sums["early.0.two.0"]
    calls.clear()
    seen: list[Tensor] = []
    stream(stages, images(), {HookPoint("early.0.one.0"): seen.append}, {place.index: seen.append})
    assert len(seen) == 2
    assert not calls
    stream(stages, images(), {HookPoint("late.0"): seen.append})
    assert calls == [1]


def test_a_module_that_runs_twice_is_streamed_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.shared(self.shared(x))))

    model, x = Twice(), images()
    inputs: list[Tensor] = []
    stream(model, x, {HookPoint("shared", "input"): inputs.append, HookPoint("last", "input"): inputs.append})
    assert len(inputs) == 2
    assert inputs[0] is x


def test_hooks_are_gone_after_a_failure(stages: nn.Module) -> None:
    def fail(tensor: Tensor) -> None:
        raise ValueError(str(tensor.shape))

    with pytest.raises(ValueError, match="16, 16"):
        stream(stages, images(), {HookPoint("stem.0"): fail})
    stages(images())
