"""Groups: what the user wants pruned."""

from typing import Any

import torch
from pruning.grouped import SHAPE, Network, groups_of
from torch import Tensor, nn

from edgeoe.pruning.groups import Group, narrow_groups
from edgeoe.pruning.prune import prune_channels

STAYS = "the first layer stays as it is unless --include names it"


def narrowed(groups: list[Group], **globs: Any) -> dict[str, str]:
    return {group.name: group.refused for group in narrow_groups(groups, **globs)}


def test_the_first_layer_stays_unless_it_is_named(network: Network) -> None:
    groups = list(groups_of(network("chain")).values())
    assert [group.name for group in groups] == ["0.0", "2.0", "4.0", "8"]
    outputs = "they are the network's outputs"
    assert narrowed(groups) == {"0.0": STAYS, "2.0": "", "4.0": "", "8": outputs}
    assert narrowed(groups, exclude=["4.*"]) == {
        "0.0": STAYS, "2.0": "", "4.0": "--exclude names it", "8": outputs
    }  # fmt: skip
    unnamed = "--include does not name it"
    assert narrowed(groups, include=["0.*", "8"]) == {"0.0": "", "2.0": unnamed, "4.0": unnamed, "8": outputs}
    assert narrowed(groups, include=["*"]) == {"0.0": "", "2.0": "", "4.0": "", "8": outputs}
    assert narrowed(groups, include=["[02].*"], exclude=["2.0"])["2.0"] == "--exclude names it"
    assert not groups[0].refused, "what is given is not changed"


def test_a_group_is_named_by_any_layer_that_makes_its_channels(network: Network) -> None:
    groups = list(groups_of(network("stages")).values())
    assert narrowed(groups, include=["early.1.two.0"])["stem.0"] == ""
    assert narrowed(groups, include=["*"], exclude=["early.1.two.0"])["stem.0"] == "--exclude names it"
    assert narrowed(groups, include=["nothing"])["down.0"] == "--include does not name it"


def test_the_first_layer_is_pruned_where_it_writes_into_a_residual_stream(network: Network) -> None:
    groups = list(groups_of(network("stages")).values())
    assert groups[0].name == "stem.0"
    assert narrowed(groups)["stem.0"] == ""
    assert narrowed(groups, exclude=["stem.*"])["stem.0"] == "--exclude names it"


def test_a_gate_makes_no_stream_of_the_first_layer() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head((x * self.gate(x).sigmoid()).mean((2, 3)))

    torch.manual_seed(0)
    assert narrowed(list(groups_of(Gated().eval()).values()))["stem"] == STAYS


def test_all_that_the_first_layer_makes_stays() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.part, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 2, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(torch.cat([x[:, :2] * self.part(x[:, :2]), x[:, 2:]], 1).mean((2, 3)))

    torch.manual_seed(0)
    groups = list(groups_of(Uneven().eval()).values())
    assert {"stem", "stem#2"} <= {group.name for group in groups}
    assert all(narrowed(groups)[name] for name in ("stem", "stem#2"))


def test_what_is_narrowed_stays_whole(network: Network) -> None:
    teacher = network("stages")
    groups = narrow_groups(groups_of(teacher).values(), include=["early.*.one.0"])
    made = prune_channels(teacher, shape=SHAPE, keep=0.85, groups=groups)
    assert set(made.removed) <= {"early.0.one.0", "early.1.one.0"}
