"""torch's attention with sizes of its own."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pruning.grouped import groups_of
from torch import Tensor, nn

from edgeoe.models.checkpoint import apply_plan, plan_between
from edgeoe.pruning.attention import ExplicitAttention, with_explicit_attention
from edgeoe.pruning.groups import Group
from edgeoe.pruning.removal import without_channels

SHAPE = (3, 16, 16)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "without biases": {"bias": False, "batch_first": True},
    "separate projections": {"kdim": 6, "vdim": 5, "batch_first": True},
    "biases of keys and values": {"add_bias_kv": True, "batch_first": True},
    "an attention to nothing": {"add_zero_attn": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True, "kdim": 6, "vdim": 5},
}


def made(**settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, **settings).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    return attention


def inputs(attention: nn.MultiheadAttention, *, cross: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values: three images, four queries, five keys."""
    torch.manual_seed(1)
    query = torch.randn(3, 4, 8)
    if not cross and attention.kdim == attention.vdim == 8:
        alike = query if attention.batch_first else query.transpose(0, 1)
        return alike, alike, alike
    given = query, torch.randn(3, 5, attention.kdim), torch.randn(3, 5, attention.vdim)
    q, k, v = given if attention.batch_first else (x.transpose(0, 1) for x in given)
    return q, k, v


@pytest.mark.parametrize("needs_weights", [False, True])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_computes_what_torch_does(kind: str, cross: bool, needs_weights: bool) -> None:
    attention = made(**KINDS[kind])
    given = inputs(attention, cross=cross)
    expected, weights = attention(*given, need_weights=needs_weights)
    outputs, own = ExplicitAttention(attention)(*given, need_weights=needs_weights)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    assert (own is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(own, weights)


@pytest.mark.parametrize("needs_weights", [False, True])
@pytest.mark.parametrize("kind", ["plain", "batch first", "both"])
@torch.no_grad()
def test_it_takes_the_masks_that_torch_takes(kind: str, needs_weights: bool) -> None:
    attention = made(**KINDS[kind])
    given = inputs(attention, cross=True)
    hidden, padding = torch.ones(4, 5).triu(2).bool(), torch.tensor([[0, 0, 0, 0, 1], [0] * 5, [0, 0, 0, 1, 1]]).bool()
    of_heads = torch.randn(6, 4, 5)
    for masks in (
        {"attn_mask": hidden},
        {"attn_mask": torch.randn(4, 5)},
        {"attn_mask": of_heads},
        {"key_padding_mask": padding},
        {"key_padding_mask": padding, "attn_mask": hidden},
    ):
        expected = attention(*given, need_weights=needs_weights, **masks)[0]
        outputs = ExplicitAttention(attention)(*given, need_weights=needs_weights, **masks)[0]
        torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_without_a_batch_and_weights_of_each_head() -> None:
    attention = made()
    x = torch.randn(4, 8)
    for average in (True, False):
        expected = attention(x, x, x, average_attn_weights=average)
        outputs = ExplicitAttention(attention)(x, x, x, average_attn_weights=average)
        for one, other in zip(outputs, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_causal_hint_needs_a_mask() -> None:
    x = torch.randn(1, 4, 8)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        ExplicitAttention(made(batch_first=True))(x, x, x, is_causal=True)


def test_what_two_modules_share_they_share_still() -> None:
    attention = made()
    model = nn.ModuleDict({"one": attention, "two": attention, "three": made()})
    with_explicit_attention(model)
    assert model["one"] is model["two"]
    assert model["one"] is not model["three"]
    assert all(isinstance(one, ExplicitAttention) for one in model.values())
    assert model["one"].in_proj_weight is attention.in_proj_weight


class Net(nn.Module):
    """Attention of tokens among themselves, and of one query to them all."""

    def __init__(self, *, needs_weights: bool = False, **settings: Any) -> None:
        super().__init__()
        self.needs_weights, self.batch_first = needs_weights, settings.get("batch_first", False)
        self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.other = nn.Conv2d(3, settings.get("kdim", 8), 4, 4)
        self.third = nn.Conv2d(3, settings.get("vdim", 8), 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, **settings)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2).permute(0, 2, 1) for layer in (self.stem, self.other, self.third))
        if not self.batch_first:
            q, k, v = (y.transpose(0, 1) for y in (q, k, v))
        y = self.attention(q[:, :1] if self.batch_first else q[:1], k, v, need_weights=self.needs_weights)[0]
        y = self.attention(q, q, q)[0] if self.attention.in_proj_weight is not None and not self.needs_weights else y
        return self.head(y.mean(1 if self.batch_first else 0))


def cut(groups: dict[str, Group]) -> dict[str, tuple[int, ...]]:
    return {name: group.order[: len(group.order) // 2] for name, group in groups.items() if not group.refused}


@torch.no_grad()
def zeroed(model: nn.Module, groups: dict[str, Group], removed: dict[str, tuple[int, ...]]) -> nn.Module:
    copied = copy.deepcopy(model)
    for name, units in removed.items():
        for slot, rows in groups[name].slots.items():
            tensor = getattr(copied.get_submodule(slot.module), slot.tensor)
            tensor.data.index_fill_(slot.axis, torch.tensor([i for unit in units for i in rows[unit]]), 0.0)
    return copied


@pytest.mark.parametrize("needs_weights", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_heads_go_and_queries_apart_from_values(kind: str, needs_weights: bool) -> None:
    torch.manual_seed(0)
    model = Net(needs_weights=needs_weights, **KINDS[kind]).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    groups = groups_of(model, SHAPE)
    assert {name for name, group in groups.items() if group.refused} == {"head"}
    held = [group for group in groups.values() if "attention" in group.producers]
    assert [len(group.order) for group in held] == [2, 4, 4], "heads, queries and keys, values"
    removed, x = cut(groups), torch.randn(2, *SHAPE)
    student = without_channels(model, groups.values(), removed)
    expected = zeroed(model, groups, removed)(x)
    torch.testing.assert_close(student(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    rebuilt = with_explicit_attention(copy.deepcopy(model))
    apply_plan(rebuilt, plan_between(copy.deepcopy(rebuilt), student))
    rebuilt.load_state_dict(student.state_dict())
    assert torch.equal(rebuilt(x), student(x))
    attention = student.get_submodule("attention")
    assert isinstance(attention, ExplicitAttention)
    assert (attention.num_heads, attention.query_rows, attention.out_proj.in_features) == (1, 2, 2)


@pytest.mark.parametrize("batch_first", [False, True])
@torch.no_grad()
def test_the_layers_of_torchs_own_encoder(batch_first: bool) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
            layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=batch_first)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).flatten(2).permute(0, 2, 1)
            y = self.encoder(y if batch_first else y.transpose(0, 1))
            return self.head(y.mean(1 if batch_first else 0))

    torch.manual_seed(0)
    model, x = Encoder().eval(), torch.randn(2, *SHAPE)
    groups = groups_of(model, SHAPE)
    assert {name for name, group in groups.items() if group.refused} == {"head"}
    removed = cut(groups) | {"stem": ()}
    student = without_channels(model, groups.values(), removed)
    expected = zeroed(model, groups, {name: units for name, units in removed.items() if units})(x)
    torch.testing.assert_close(student(x), expected, rtol=1e-4, atol=1e-5)
    student = without_channels(model, groups.values(), cut(groups)).train()
    with torch.enable_grad():
        F.cross_entropy(student(x), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
