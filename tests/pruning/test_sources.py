"""The lines of a teacher's code that a refusal names."""

import inspect
from collections.abc import Callable

import pytest
import torch
from pruning.grouped import refusals_of
from torch import Tensor, nn

from edgeoe.pruning.sources import calling_line, failing_line


class Split(nn.Module):
    def __init__(self, split: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(4, 3), nn.Linear(4, 3)
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.split(torch.relu(self.stem(x)).mean((2, 3)))
        return self.one(a) + self.two(b)


def fixed_slices(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :4], x[:, 4:]


def fixed_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    one, two = torch.split(x, [4, 4], 1)
    return one, two


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]


@pytest.mark.parametrize("split", [fixed_slices, fixed_parts])
def test_a_split_into_fixed_sizes_is_named(split: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    line = inspect.getsourcelines(split)[1] + 1
    reasons = refusals_of(Split(split).eval())
    assert f"test_sources.py:{line}: a split or slice there may have fixed sizes" in reasons["stem"]
    assert "test_sources.py" not in reasons["one"]


def test_halves_of_whatever_size_are_pruned() -> None:
    assert "stem" not in refusals_of(Split(lambda x: tuple(x.chunk(2, 1))).eval())  # type: ignore[arg-type, return-value]


def test_the_innermost_line_outside_of_torch_is_named() -> None:
    here = inspect.currentframe()
    assert here is not None
    assert calling_line() == f"test_sources.py:{here.f_lineno}"
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2) @ torch.zeros(3)
    assert failing_line(raised.value) == f"test_sources.py:{here.f_lineno - 1}"
