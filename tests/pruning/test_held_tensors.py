"""Tensors beside the weights of layers that hold channels: tied ones, tables of positions, buffers, attributes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pruning.grouped import SHAPE, without
from torch import Tensor, nn

from edgeoe.models.checkpoint import apply_plan, plan_between

TOKENS, WIDTH = 16, 8


class Embedded(nn.Module):
    """Patches with a table of positions, which `hold` sets up and `add` adds."""

    def __init__(self, hold: Callable[[Any], None], add: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, WIDTH, 4, 4)
        hold(self)
        self.add, self.head = add, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.add(self, self.stem(x).flatten(2).mT)).mean(1))


def sinusoids() -> Tensor:
    at = torch.arange(TOKENS)[:, None] / 10000 ** (torch.arange(0, WIDTH, 2) / WIDTH)
    return torch.cat([at.sin(), at.cos()], 1)


def parameter(*shape: int) -> Callable[[Any], None]:
    return lambda n: n.register_parameter("table", nn.Parameter(torch.randn(shape)))


def buffer(*, persistent: bool) -> Callable[[Any], None]:
    return lambda n: n.register_buffer("table", sinusoids(), persistent=persistent)


def attribute(n: Any) -> None:
    n.table = sinusoids()


def added(n: Any, x: Tensor) -> Tensor:
    return x + n.table


def resized(n: Any, x: Tensor) -> Tensor:
    return x + F.interpolate(n.table.mT, size=x.shape[1], mode="linear").mT


def resized_in_two_directions(n: Any, x: Tensor) -> Tensor:
    side = math.isqrt(n.table.shape[1])
    table = n.table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(4, 4), mode="bicubic")
    return x + table.flatten(2).mT


HELD: dict[str, tuple[Callable[[Any], None], Callable[[Any, Tensor], Tensor]]] = {
    "(1, N, C)": (parameter(1, TOKENS, WIDTH), added),
    "(N, C)": (parameter(TOKENS, WIDTH), added),
    "(C, N)": (parameter(WIDTH, TOKENS), lambda n, x: x + n.table.T),
    "sliced": (parameter(1, TOKENS + 4, WIDTH), lambda n, x: x + n.table[:, : x.shape[1]]),
    "with a class token's": (parameter(1, TOKENS + 1, WIDTH), lambda n, x: x + n.table[:, 1:] + n.table[:, :1]),
    "resized": (parameter(1, 9, WIDTH), resized),
    "resized in two directions": (parameter(1, 9, WIDTH), resized_in_two_directions),
    "persistent buffer": (buffer(persistent=True), added),
    "buffer that is not persistent": (buffer(persistent=False), added),
    "tensor that is an attribute": (attribute, added),
}


@pytest.mark.parametrize("name", HELD)
def test_a_table_of_positions_holds_channels(name: str) -> None:
    model = Embedded(*HELD[name]).eval()
    student: Any = without(model, "stem", (1, 6))
    assert WIDTH - 2 in student.table.shape
    rebuilt = Embedded(*HELD[name]).eval()
    apply_plan(rebuilt, plan_between(rebuilt, student))
    rebuilt.load_state_dict(student.state_dict())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(rebuilt(x), student(x))


def test_what_a_module_computes_for_a_mode_is_computed_anew_without_channels() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.table, self.head = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(8, 1, 1)), nn.Linear(8, 3)

        def train(self, mode: bool = True) -> Any:
            self.doubled = None if mode else 2 * self.table.detach()
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            doubled = 2 * self.table if self.doubled is None else self.doubled
            return self.head((self.stem(x) * doubled).mean((2, 3)))

    student: Any = without(Cached().eval(), "stem", (1, 6))
    x = torch.randn(2, *SHAPE)
    assert student.doubled.shape == (6, 1, 1)
    assert torch.allclose(student.train()(x), student.eval()(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.two, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.relu(self.one(self.stem(x).mean((2, 3)))))))


def test_a_weight_that_two_layers_share_is_pruned_once_and_stays_shared() -> None:
    student: Any = without(Tied().eval(), "stem", (0, 4))
    assert student.one.weight is student.two.weight
    assert student.one.weight.shape == (4, 4)
    assert (student.two.in_features, student.two.out_features, len(student.two.bias)) == (4, 4, 4)
    rebuilt: Any = Tied().eval()
    apply_plan(rebuilt, plan_between(rebuilt, student))
    assert rebuilt.one.weight is rebuilt.two.weight
    rebuilt.load_state_dict(student.state_dict())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(rebuilt(x), student(x))
