"""Which channels can go: who makes and who reads them, and that it is verified."""

import copy
from typing import Any

import pytest
import torch
from layers import layer_of
from pruning.grouped import SHAPE, Attention, Counts, Network, deep, groups_of, images
from torch import Tensor, nn

from edgeoe.models.checkpoint import apply_plan, plan_between
from edgeoe.pruning.groups import Group
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.slots import SizeAttribute, Slot
from edgeoe.pruning.trial import Trials


def each(*channels: int) -> tuple[tuple[int, ...], ...]:
    return tuple((channel,) for channel in channels)


def test_a_group_knows_who_makes_and_who_reads_its_channels(network: Network) -> None:
    found = {frozenset(group.producers): group for group in groups_of(network("stages")).values()}
    stream = found[frozenset({"stem.0", "early.0.two.0", "early.1.two.0"})]
    assert set(stream.producers.values()) == {each(*range(8))}
    assert dict(stream.consumers) == {name: each(*range(8)) for name in ("early.0.one.0", "early.1.one.0", "down.0")}
    last = found[frozenset({"down.0", "late.0.two.0", "late.1.two.0"})]
    assert dict(last.consumers) == {name: each(*range(16)) for name in ("late.0.one.0", "late.1.one.0", "head")}
    inner = found[frozenset({"late.1.one.0"})]
    assert dict(inner.consumers) == {"late.1.two.0": each(*range(16))}
    assert not found[frozenset({"head"})].consumers


def test_a_map_that_is_flattened_gives_its_reader_many_inputs_a_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    assert groups_of(model.eval())["0"].consumers == {"4": tuple(tuple(range(4 * c, 4 * c + 4)) for c in range(4))}


def test_norms_are_shares_of_their_groups_mean(network: Network) -> None:
    for group in groups_of(network("stages")).values():
        assert list(group.norms) == sorted(group.norms)
        assert sum(group.norms) == pytest.approx(len(group.order), rel=1e-4)


# Verification


class Rigid(Counts):
    """The same with a number that nobody can put right."""

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        return x + self.two(torch.relu(self.one(x)).reshape(b, 10, h, w))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The groups of each verification, as they happen."""
    seen: list[list[str]] = []
    failure = Trials.failure

    def spy(self: Trials, groups: list[Group], removed: dict[str, tuple[int, ...]]) -> str:
        seen.append([group.name for group in groups])
        assert removed.keys() == set(seen[-1])
        return failure(self, groups, removed)

    monkeypatch.setattr(Trials, "failure", spy)
    return seen


class Plain(Counts):
    """The same without any number."""

    def __init__(self) -> None:
        super().__init__(10)
        del self.width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(torch.relu(self.one(x)))


def test_all_groups_are_verified_at_once_and_then_half_of_them(tried: list[list[str]]) -> None:
    found = groups_of(deep(*(Plain() for _ in range(6))))
    assert [name for name, group in found.items() if group.refused] == ["9"]
    everything, half = map(set, tried)
    assert everything == {"0", *(f"{at}.one" for at in range(1, 7))}
    assert half < everything
    assert len(half) == 3


def test_where_one_can_not_go_groups_of_one_kind_are_verified_at_once(tried: list[list[str]]) -> None:
    groups_of(deep(*(Plain() for _ in range(6)), nn.Sequential(Rigid(10))))
    inner = [f"{at}.one" for at in range(1, 7)]
    assert sorted(tried[0]) == sorted(["0", *inner, "7.0.one"]), "all"
    assert [sorted(names) for names in tried[1:] if "7.0.one" not in names] == [["0"], inner, ["0", *inner]]


class Pair(nn.Module):
    """A ratio of widths that stays the same if both layers lose the same share, and changes if one of them does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 8, 1)
        self.c, self.d = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return x + self.c(a) * (a.shape[1] / b.shape[1]) + self.d(b)


def test_two_errors_that_hide_each_other_are_seen() -> None:
    model = deep(Pair(), Plain())
    refused = {name: group.refused for name, group in groups_of(model).items() if group.refused}
    assert refused.keys() == {"1.a", "1.b", "5"}
    assert "not the same as zeroing" in refused["1.a"]
    groups = [group for name, group in groups_of(model).items() if name in ("1.a", "1.b")]
    quarter = {group.name: group.order[: len(group.order) // 4] for group in groups}
    trials = Trials(model, SHAPE)
    assert not trials.failure(groups, quarter), "which a quarter of each would not show"
    assert trials.failure(groups[:1], {"1.a": quarter["1.a"]})


@pytest.mark.parametrize("wrong", [0, 2, 3, 7])
def test_the_one_of_a_kind_that_can_not_go_is_singled_out(wrong: int, tried: list[list[str]]) -> None:
    model = deep(*(Rigid(10) if at == wrong else Counts(10) for at in range(8)))
    found = groups_of(model)
    assert {name for name, group in found.items() if group.refused} == {f"{wrong + 1}.one", "11"}
    assert "fails without them" in found[f"{wrong + 1}.one"].refused
    assert len(tried) < 40


def test_a_kind_of_which_none_can_go_is_given_up_early(tried: list[list[str]]) -> None:
    model = deep(*(Rigid(10) for _ in range(16)))
    found = groups_of(model)
    assert all(group.refused for name, group in found.items() if name != "0")
    assert not found["0"].refused
    assert len(tried) < 20


def test_numbers_that_count_channels_follow_them() -> None:
    model = deep(Counts(10), Counts(12))
    found = groups_of(model)
    assert found["1.one"].attributes == (SizeAttribute("1", "width", 1),)
    assert found["2.one"].attributes == (SizeAttribute("2", "width", 1),)
    student = without_channels(model, found.values(), {"1.one": (3, 4), "2.one": (0, 1, 11)})
    assert (layer_of(student, "1").width, layer_of(student, "2").width) == (8, 9)
    assert (layer_of(model, "1").width, layer_of(model, "2").width) == (10, 12)
    assert student(images()).shape == (4, 3)


def test_numbers_in_tuples_follow_them_too() -> None:
    class Scaled(nn.Module):
        """As in timm's MetaFormer."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.shape = (width, 1, 1)
            self.scale = nn.Parameter(torch.rand(width))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale.view(self.shape)

    model = deep(nn.Conv2d(8, 10, 1), Scaled(10), nn.Conv2d(10, 8, 1))
    group = groups_of(model)["1"]
    assert not group.refused
    student = without_channels(model, [group], {"1": (3, 4)})
    assert (layer_of(student, "2").shape, layer_of(model, "2").shape) == ((8, 1, 1), (10, 1, 1))
    again = copy.deepcopy(model)
    apply_plan(again, plan_between(model, student))
    again.load_state_dict(student.state_dict())
    assert torch.equal(again(images()), student(images()))


def test_heads_go_and_are_counted() -> None:
    model = deep(Attention(6, 4))
    group = groups_of(model)["1.qkv"]
    assert not group.refused
    assert group.attributes == (SizeAttribute("1", "heads", 1),)
    assert len(group.order) == 6
    student = without_channels(model, [group], {"1.qkv": (0, 4)})
    assert layer_of(student, "1").heads == 4
    assert layer_of(student, "1.qkv").out_features == 48
    assert layer_of(student, "1.proj").in_features == 16
    zeroed = copy.deepcopy(model)
    for head in (0, 4):
        layer_of(zeroed, "1.proj").weight.data[:, 4 * head : 4 * head + 4] = 0
    torch.testing.assert_close(student(images()), zeroed(images()))


def test_a_number_of_the_network_that_is_as_large_as_its_heads_is_not_taken_for_them() -> None:
    class Patched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = 4
            self.body = deep(Attention(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(nn.functional.pixel_unshuffle(x, self.patch).unflatten(1, (3, -1)).mean(2))

    model = Patched().eval()
    found = groups_of(model)["body.1.qkv"]
    assert not found.refused
    assert found.attributes == (SizeAttribute("body.1", "heads", 1),)


def test_a_table_that_was_kept_from_an_earlier_pass_does_not_hold_channels_back() -> None:
    class Caching(nn.Module):
        """As in timm's LeViT: in eval mode what is computed from parameters alone is computed once."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)
            self.bias = nn.Parameter(torch.randn(8))

            self.bias_cache: dict[str, torch.Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if "bias" not in self.bias_cache:
                self.bias_cache["bias"] = self.bias.sigmoid()
            return self.head((self.stem(x) * self.bias_cache["bias"].view(1, -1, 1, 1)).mean((2, 3)))

    torch.manual_seed(0)
    model = Caching().eval().requires_grad_(False)
    model(images())
    found = groups_of(model)["stem"]
    assert not found.refused
    assert without_channels(model, [found], {"stem": (1,)})(images()).shape == (4, 3)


def test_a_table_that_a_change_of_mode_computes_anew_does_not_hold_channels_back() -> None:
    """As in the LeViT and TinyViT of their authors: eval() computes it, train() drops it."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)
            self.bias = nn.Parameter(torch.randn(8))

        def train(self, mode: bool = True) -> Any:
            self.kept = None if mode else self.bias.sigmoid()
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            bias = self.bias.sigmoid() if self.kept is None else self.kept
            return self.head((self.stem(x) * bias.view(1, -1, 1, 1)).mean((2, 3)))

    torch.manual_seed(0)
    with torch.no_grad():
        model = nn.Sequential(Keeping()).requires_grad_(False).eval()
    group = groups_of(model)["0.stem"]
    assert not group.refused
    assert Slot("0", "bias", 0) in group.slots
    student = without_channels(model, [group], {"0.stem": (1,)})
    layer_of(student, "0").train()
    expected = student(images())
    layer_of(student, "0").eval()
    assert torch.equal(without_channels(model, [group], {"0.stem": (1,)})(images()), expected), "no stale table"


def test_modules_of_another_mode_than_the_network_keep_it() -> None:
    model = deep(nn.BatchNorm2d(8))
    layer_of(model, "1").train()
    student = without_channels(model, groups_of(deep(nn.BatchNorm2d(8))).values(), {"0": (1,)})
    assert [module.training for module in student.modules()] == [module.training for module in model.modules()]
    assert layer_of(student, "1").training


def test_heads_and_dimensions_that_go_together_count_once() -> None:
    """Three heads of eight, of which one goes, and two dimensions of each: what counts all of them is 2 * 6."""

    class Counting(Attention):
        def __init__(self) -> None:
            super().__init__(3, 8)
            self.inner, self.size = 24, 8

        def forward(self, x: Tensor) -> Tensor:
            b, _, h, w = x.shape
            y = x.flatten(2).mT
            q, k, v = self.qkv(y).reshape(b, h * w, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, self.inner)
            return x + self.proj(y).mT.reshape(b, -1, h, w)

    model = deep(Counting())
    groups = groups_of(model)
    assert not groups["1.qkv"].refused
    assert not groups["1.qkv#2"].refused
    assert groups["1.qkv#2"].crossing
    removed: dict[str, tuple[int, ...]] = {"1.qkv": (1,), "1.qkv#2": (0, 5)}
    student = without_channels(model, groups.values(), removed)
    attention = layer_of(student, "1")
    assert (attention.heads, attention.size, attention.inner) == (2, 6, 12)
    zeroed = copy.deepcopy(model)
    for name, units in removed.items():
        for slot, rows in groups[name].slots.items():
            tensor = getattr(zeroed.get_submodule(slot.module), slot.tensor)
            tensor.data.index_fill_(slot.axis, torch.tensor([i for unit in units for i in rows[unit]]), 0.0)
    torch.testing.assert_close(student(images()), zeroed(images()))


def test_a_constant_that_no_state_dict_holds_shrinks_too() -> None:
    """As the biases of keys in BEiT, which are always zero."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
            self.level: Tensor
            self.register_buffer("level", torch.full((6,), 0.5), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x) + self.level.view(1, -1, 1, 1))

    model = deep(Constant())
    group = groups_of(model)["1.one"]
    assert not group.refused
    student = without_channels(model, [group], {"1.one": (1, 2)})
    again = copy.deepcopy(model)
    apply_plan(again, plan_between(model, student))
    again.load_state_dict(student.state_dict())
    assert torch.equal(again(images()), student(images()))


def test_a_table_that_is_never_made_again_is_kept() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)
            self.means = {"red": torch.tensor(0.5)}

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.stem(x - self.means["red"])).mean((2, 3)))

    torch.manual_seed(0)
    model = Table().eval()
    assert not groups_of(model)["stem"].refused
    assert list(model.means) == ["red"]
