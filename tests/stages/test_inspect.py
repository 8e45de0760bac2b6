"""What of a teacher can be pruned, and what it would bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeoe.errors import TeacherError
from edgeoe.pruning.prune import count_macs, count_params, drop_blocks
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.verify import prunable_groups
from edgeoe.records.inspection import GroupShare, InspectRecord
from edgeoe.settings import PreprocessSettings
from edgeoe.stages.inspect import inspect
from edgeoe.targets.load import load_target

SMALL = PreprocessSettings(size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
Look = Callable[..., InspectRecord]
Shape = tuple[int, int, int]


@pytest.fixture
def look(teacher_file: Path, shape_of: Callable[[str], Shape]) -> Look:
    """`look(name, ...)`: inspect one of networks.py, timm: or torchvision:, fresh, with small images."""

    def inspected(name: str, **options: Any) -> InspectRecord:
        preprocess = replace(SMALL, size=shape_of(name)[1:])
        teacher = name if ":" in name else f"{teacher_file}:{name}"
        return inspect(teacher, weights="random", preprocess=preprocess, **options)

    return inspected


def going(record: InspectRecord) -> list[GroupShare]:
    return [group for group in record.groups if not group.refused]


@pytest.mark.parametrize("name", ["residual", "stages", "scaled", "timm:test_vit", "torchvision:shufflenet_v2_x0_5"])
def test_shares_are_what_a_network_without_half_of_the_channels_lacks(
    name: str, look: Look, network: Callable[[str], nn.Module], shape_of: Callable[[str], Shape]
) -> None:
    record = look(name, classes=3, include=["*"])
    model, shape = network(name), shape_of(name)
    groups = {group.name: group for group in prunable_groups(model, shape=shape)}
    assert (record.macs, record.params) == (count_macs(model, shape), count_params(model))
    assert going(record)
    for share in going(record):
        order = groups[share.name].order
        half = without_channels(model, groups.values(), {share.name: order[: len(order) // 2]})
        odd = len(order) / 2 / (len(order) // 2)  # half a unit is no unit
        assert share.macs_share == pytest.approx(odd * (1 - count_macs(half, shape) / record.macs))
        assert share.params_share == pytest.approx(odd * (1 - count_params(half) / record.params))
        assert share.latency_share is None
    for block in record.blocks:
        without = drop_blocks(model, [block.name], shape=shape)
        assert block.macs_share == pytest.approx(1 - without.macs_kept)
        assert block.params_share == pytest.approx(1 - without.params_kept)


def test_a_group_names_all_that_is_tied(look: Look) -> None:
    (wide,) = (group for group in look("residual").groups if group.name == "wide.0")
    assert set(wide.layers) == {"wide.0", "depthwise.0", "excite.expand"}
    assert set(wide.consumers) == {"excite.squeeze", "narrow.0"}
    assert (wide.channels, wide.units, wide.refused) == (16, 16, "")


def test_a_head_of_attention_is_one_unit_of_many_channels(look: Look) -> None:
    group = next(group for group in going(look("timm:test_vit")) if group.name.endswith("qkv"))
    assert (group.channels, group.units) == (192, 2)


def test_what_stays_has_a_reason_and_no_shares(look: Look) -> None:
    record = look("rigid")
    reasons = {group.name: group.refused for group in record.groups}
    assert reasons.keys() == {"conv", "head"}
    assert "the network fails without them" in reasons["conv"]
    assert reasons["head"] == "they are the network's outputs"
    assert all(group.macs_share is group.params_share is group.alike is None for group in record.groups)
    assert (record.blocks, record.untraced, record.head, record.unread) == ((), (), "head", "")


def test_include_and_exclude_are_heeded(look: Look) -> None:
    assert "0.0" not in [group.name for group in going(look("chain"))]
    assert "0.0" in [group.name for group in going(look("chain", include=["*"]))]
    assert "stem.0" in [group.name for group in going(look("stages"))], "it writes into a residual stream"
    assert [group.name for group in going(look("stages", include=["early*one*"]))] == ["early.0.one.0", "early.1.one.0"]
    (down,) = (group for group in look("stages", exclude=["down*"]).groups if group.name == "down.0")
    assert down.refused == "--exclude names it"


def test_blocks_features_and_the_head_are_read(look: Look) -> None:
    record = look("stages")
    assert [block.name for block in record.blocks] == ["early.0", "early.1", "late.0", "late.1"]
    assert [block.alike for block in record.blocks] == [4, 4, 5, 5]
    assert (record.head, record.features) == ("head", "late")
    assert look("residual").features is None, "a functional sum makes them, and no module"


def written(folder: Path, forward: str) -> str:
    """A file of a user's with a network of the layers stem, head and idle, and the parameter shift."""
    (folder / "own.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Own(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.stem, self.middle = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)\n"
        "        self.head, self.idle = nn.Linear(8, 3), nn.Linear(2, 2)\n"
        "        self.shift = nn.Parameter(torch.zeros(3))\n\n"
        f"    def forward(self, x):\n        x = self.middle(self.stem(x)).mean((2, 3))\n        return {forward}\n"
    )
    return f"{folder / 'own.py'}:Own"


def test_no_single_head_is_a_finding_and_no_error(tmp_path: Path) -> None:
    record = inspect(written(tmp_path, "self.head(x) * self.head(x).sigmoid()"), weights="random", preprocess=SMALL)
    assert (record.head, record.features, record.blocks) == (None, None, ())
    assert record.unread.startswith("no single linear layer or convolution makes this teacher's outputs, ")
    assert [group.name for group in going(record)] == ["middle"]


def test_layers_that_the_forward_never_reaches_are_named(tmp_path: Path) -> None:
    record = inspect(written(tmp_path, "self.head(x)"), weights="random", preprocess=SMALL)
    assert (record.head, record.untraced) == ("head", ("idle",))


def test_a_published_architecture_has_a_thousand_classes_unless_told(look: Look) -> None:
    outputs = {n: next(g for g in look("timm:test_vit", classes=n).groups if g.name == "head") for n in (None, 7)}
    assert (outputs[None].channels, outputs[7].channels) == (1000, 7)


def test_a_teacher_of_other_classes_is_refused(look: Look) -> None:
    with pytest.raises(TeacherError, match=r"with logits \(2, 4\), one per class folder\. Got \(2, 3\)\."):
        look("chain", classes=4)
    with pytest.raises(TeacherError, match=r"with logits \(2, classes\)\. Got \(1,\)\."):
        look("scalar")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The probe takes a MAC for a nanosecond, and is 2 ns off each time; how many networks it was given."""
    given: list[int] = []

    def probe(models: Sequence[nn.Module]) -> list[float]:
        given.append(len(models))
        return [count_macs(model, (3, 16, 16)) / 1e6 + 2e-6 * (turn % 2) for turn, model in enumerate(models)]

    monkeypatch.setattr("edgeoe.stages.inspect.probe_on", lambda target, preprocess: probe)
    return given


def test_latencies_are_shared_among_those_alike(look: Look, timed: list[int]) -> None:
    record = look("stages", target=load_target("host-cpu"))
    assert timed == [4 + 4 + 2], "the whole network four times, then kinds of groups and of blocks"
    assert record.target == "host-cpu"
    assert record.latency_ms == pytest.approx(record.macs / 1e6, rel=1e-5)
    assert record.noise_ms == pytest.approx(2e-6)
    shares: list[Any] = [*going(record), *record.blocks]
    for share in shares:
        assert share.latency_share == pytest.approx(share.macs_share, abs=1e-5)


def test_latencies_are_measured_on_the_targets_runtime(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.stages.latency_probe._SECONDS", 0.0)
    record = look("stages", target=load_target("host-cpu"))
    assert record.latency_ms is not None
    assert record.latency_ms > 0
    assert all(group.latency_share is not None for group in going(record))


def test_fresh_weights_are_drawn_from_the_seed(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def note(model: nn.Module, **options: Any) -> Any:
        seen.append(next(model.parameters()).clone())
        return prunable_groups(model, **options)

    monkeypatch.setattr("edgeoe.stages.inspect.prunable_groups", note)
    assert look("chain", seed=1).random_weights
    look("chain", seed=1)
    look("chain", seed=2)
    assert seen[0].equal(seen[1])
    assert not seen[0].equal(seen[2])
