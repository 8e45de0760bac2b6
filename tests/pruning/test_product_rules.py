"""Heads that compare features with prototypes, and parameters that are multiplied with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pruning.grouped import groups_of, refusals_of, without
from torch import Tensor, nn

OUTPUTS = "they are the network's outputs"


class Headed(nn.Module):
    def __init__(self, head: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.run = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), head
        self.prototypes, self.fc = nn.Parameter(torch.randn(3, 6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.body(F.relu(self.stem(x))).mean((2, 3)), self)


PROTOTYPES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "cosine": lambda x, n: F.normalize(x) @ F.normalize(n.prototypes).T,
    "cosine, linear": lambda x, n: 8 * F.linear(F.normalize(x), F.normalize(n.prototypes)),
    "cosine similarity": lambda x, n: F.cosine_similarity(x[:, None], n.prototypes[None], dim=-1),
    "distance": lambda x, n: -torch.cdist(x, n.prototypes),
    "squared distance": lambda x, n: -(x[:, None] - n.prototypes).square().sum(-1),
    "product": lambda x, n: x @ n.prototypes.T,
    "turned product": lambda x, n: (n.prototypes @ x.T).T,
}


@pytest.mark.parametrize("name", PROTOTYPES)
def test_features_go_with_the_columns_of_the_prototypes(name: str) -> None:
    student: Any = without(Headed(PROTOTYPES[name]).eval(), "body", (1, 4))
    assert student.prototypes.shape == (3, 4)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_weight_of_a_layer_may_be_used_outside_of_it(normalised: bool) -> None:
    def head(x: Tensor, n: Any) -> Tensor:
        return F.linear(F.normalize(x), F.normalize(n.fc.weight) if normalised else n.fc.weight)

    student: Any = without(Headed(head).eval(), "body", (1, 4))
    assert student.fc.weight.shape == (3, 4)
    assert student.fc.in_features == 4


def test_a_parameter_that_features_are_multiplied_with_is_a_layer() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.into, self.head = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(8, 5)), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.stem(x).mean((2, 3)) @ self.into))

    torch.manual_seed(0)
    model = Projected().eval()
    assert refusals_of(model) == {"head": OUTPUTS}
    assert without(model, "stem", (0, 1)).into.shape == (6, 5)
    group = next(group for group in groups_of(model).values() if "head" in group.consumers)
    assert without(model, group.name, (2,)).into.shape == (8, 4)


def test_members_of_an_ensemble_are_pruned_each_by_itself() -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(Headed(lambda x, n: n.fc(x)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([member(x) for member in self.members]).mean(0)

    refused = refusals_of(Ensemble().eval())
    assert set(refused.values()) == {OUTPUTS}
    student: Any = without(Ensemble().eval(), "members.1.body", (0,))
    assert [member.fc.in_features for member in student.members] == [6, 5]
