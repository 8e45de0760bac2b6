"""Streams and heads that a forward ties to each other are pruned together, in units of both."""

import copy

import pytest
import timm
import torch
from pruning.grouped import groups_of
from torch import Tensor, nn

from edgeoe.models.checkpoint import apply_plan, plan_between
from edgeoe.pruning.compounds import compounds_with, heads_reading
from edgeoe.pruning.groups import Group, narrow_groups
from edgeoe.pruning.prune import count_macs
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.slots import Slot

SHAPE = (3, 16, 16)


class Tied(nn.Module):
    """Attention whose heads are a fixed number of parts of the width of its input.

    layout: of the outputs of `qkv`: parts before heads, or dimensions before parts.
    """

    def __init__(self, width: int, heads: int, layout: str = "parts") -> None:
        super().__init__()
        self.heads, self.layout = heads, layout
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        y = self.qkv(x)
        if self.layout == "parts":
            q, k, v = y.reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = y.reshape(b, n, c // self.heads, 3, self.heads).permute(3, 0, 4, 1, 2)
        weights = (q @ k.transpose(-2, -1) / 4).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class Reduced(nn.Module):
    """Attention whose keys and values come from a convolution that counts the channels of the input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.sr = nn.Conv2d(width, width, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        small = self.sr(x.transpose(1, 2).reshape(b, c, 4, 4)).reshape(b, c, -1).transpose(1, 2)
        q = self.q(x).reshape(b, n, self.heads, c // self.heads).transpose(1, 2)
        k, v = self.kv(small).reshape(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class Transformer(nn.Module):
    """Blocks of attention and an MLP without norms, so that to remove channels is to zero them, exactly."""

    def __init__(self, width: int, *attentions: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 16, width) / 4)
        self.attentions = nn.ModuleList(attentions)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, width)) for _ in attentions
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.place
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            x = x + attention(x)
            x = x + mlp(x)
        y: Tensor = self.head(x.mean(1))
        return y


def tied(layout: str = "parts") -> nn.Module:
    torch.manual_seed(0)
    return Transformer(24, Tied(24, 4, layout), Tied(24, 4, layout)).eval()


def zeroed(model: nn.Module, group: Group, units: tuple[int, ...]) -> nn.Module:
    model = copy.deepcopy(model)
    for slot, rows in group.slots.items():
        tensor = getattr(model.get_submodule(slot.module), slot.tensor).data
        tensor.index_fill_(slot.axis, torch.tensor([index for unit in units for index in rows[unit]]), 0.0)
    return model


def images() -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", ["parts", "dimensions"])
def test_a_unit_is_a_dimension_of_every_head_and_as_many_channels_of_the_stream(layout: str) -> None:
    groups = groups_of(tied(layout), SHAPE)
    assert [name for name, group in groups.items() if group.refused] == ["head"]
    stream = groups["stem"]
    assert len(stream.order) == 6  # dimensions of a head
    sizes = {(slot.module, slot.axis): len(rows[0]) for slot, rows in stream.slots.items() if slot.tensor == "weight"}
    assert sizes["stem", 0] == sizes["attentions.0.qkv", 1] == sizes["attentions.1.proj", 1] == 4
    assert sizes["attentions.0.qkv", 0] == 12
    assert all("qkv" not in name for name in groups)  # the heads are no group of their own


@pytest.mark.parametrize("layout", ["parts", "dimensions"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_to_remove_units_is_to_zero_them(layout: str, count: int) -> None:
    model = tied(layout)
    group = groups_of(model, SHAPE)["stem"]
    units = group.order[:count]
    with torch.no_grad():
        student = without_channels(model, [group], {group.name: units})
        assert torch.allclose(student(images()), zeroed(model, group, units)(images()), atol=1e-5)
    assert count_macs(student, SHAPE) < count_macs(model, SHAPE)


def test_units_hold_every_channel_once() -> None:
    model = tied()
    for slot, rows in groups_of(model, SHAPE)["stem"].slots.items():
        size = getattr(model.get_submodule(slot.module), slot.tensor).shape[slot.axis]
        assert sorted(index for row in rows for index in row) == list(range(size))


def test_what_matters_least_shares_a_unit() -> None:
    model = tied()
    weak = [1, 8, 14, 23]  # rows of queries, one of each head
    attention = model.get_submodule("attentions.1")
    with torch.no_grad():
        for part in range(3):
            attention.qkv.weight[[part * 24 + row for row in weak]] /= 1e3  # type: ignore[index, union-attr, operator]
        attention.proj.weight[:, weak] /= 1e3  # type: ignore[index, union-attr, operator]
        model.stem.weight[:4] /= 1e3  # type: ignore[index, union-attr, operator]
    rows = groups_of(model, SHAPE)["stem"].producers
    units = [row[:4] for row in rows["attentions.1.qkv"]]
    assert tuple(weak) in units


def test_blocks_with_other_numbers_of_heads_share_units() -> None:
    torch.manual_seed(0)
    model = Transformer(24, Tied(24, 4), Tied(24, 6)).eval()
    stream = groups_of(model, SHAPE)["stem"]
    assert not stream.refused
    assert len(stream.order) == 2  # 12 channels, of every head three dimensions or two
    with torch.no_grad():
        student = without_channels(model, [stream], {stream.name: stream.order[:1]})
        assert torch.allclose(student(images()), zeroed(model, stream, stream.order[:1])(images()), atol=1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_layers_between_the_stream_and_the_heads_belong_to_the_unit(heads: int) -> None:
    torch.manual_seed(0)
    model = Transformer(12, Reduced(12, heads)).eval()
    groups = groups_of(model, SHAPE)
    assert [name for name, group in groups.items() if group.refused] == ["head"]
    assert {"attentions.0.sr", "attentions.0.kv"} <= groups["stem"].producers.keys()


def test_a_compound_survives_its_plan() -> None:
    teacher, group = tied(), groups_of(tied(), SHAPE)["stem"]
    student = without_channels(teacher, [group], {"stem": group.order[:2]})
    rebuilt = tied()
    apply_plan(rebuilt, plan_between(teacher, student))
    rebuilt.load_state_dict(student.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(images()), student(images()))


def test_the_first_layer_is_no_obstacle_where_it_writes_the_stream() -> None:
    groups = narrow_groups([*groups_of(tied(), SHAPE).values()])
    assert not next(group for group in groups if group.name == "stem").refused


class Fixed(Tied):
    """The same with a width in its code."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(len(x), 16, 24))


def test_what_fails_together_too_is_refused_apart_with_its_own_reason() -> None:
    torch.manual_seed(0)
    groups = groups_of(Transformer(24, Fixed(24, 4)).eval(), SHAPE)
    assert "16, 24" in groups["stem"].refused
    assert groups["attentions.0.qkv"].refused


def test_heads_read_the_stream_at_once_or_through_each_other() -> None:
    def group(name: str, producers: str, consumers: str, *, summed: bool = False) -> Group:
        rows = ((0,), (1,))
        made, read = dict.fromkeys(producers, rows), dict.fromkeys(consumers, rows)
        return Group(name, (0, 1), producers=made, consumers=read, summed=summed)

    stream, heads, reduced = group("s", "ae", "bc", summed=True), group("h", "d", "e"), group("r", "c", "d")
    next_stream, other = group("n", "bx", "f", summed=True), group("o", "f", "g")
    assert heads_reading(stream, [stream, heads, reduced, next_stream, other]) == [reduced, heads]


def test_no_units_where_nothing_is_in_proportion() -> None:
    model = tied()
    stream, slot = groups_of(model, SHAPE)["stem"], Slot("attentions.0.qkv", "weight", 0)
    rows = tuple((index,) for index in range(7))  # 24 channels are no multiple of 7
    heads = Group("h", tuple(range(7)), producers={slot.module: rows}, slots={slot: rows}, crossing=True)
    assert [*compounds_with(model, stream, [heads])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("xcit_nano_12_p8_224", {"depth": 2}),
        ("beit_base_patch16_224", {"embed_dim": 48, "num_heads": 4, "depth": 2}),
        ("davit_tiny", {"depths": (1, 1), "embed_dims": (24, 48), "num_heads": (3, 6)}),
    ],
)
def test_streams_of_timm_networks_are_pruned(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    size = {} if name.startswith("davit") else {"img_size": 32}
    model = timm.create_model(name, num_classes=5, **size, **options).eval()
    groups = groups_of(model, (3, 32, 32))
    assert len([group for group in groups.values() if group.refused]) == 1
