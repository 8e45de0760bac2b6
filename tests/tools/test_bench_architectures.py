"""The benchmark over architectures: what it picks, what a row says when a model fails, and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import architecture_families as families
import architecture_stages as stages
import architecture_table as table
import bench_architectures as bench
import numpy as np
import pytest
import torch
from layers import layer_of
from torch import nn


def row(**facts: str) -> dict[str, str]:
    return {**dict.fromkeys(table.COLUMNS, ""), **facts}


def test_the_smallest_member_of_each_family_of_torchvision_is_picked() -> None:
    picked = families.smallest("torchvision")
    assert len(picked) >= 17
    assert picked["shufflenetv2"] == ("shufflenet_v2_x0_5", 1366792)
    assert picked["resnet"][0] == "resnet18"


def test_a_choice_made_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "families.json"
    path.write_text(json.dumps({source: {"f": ["n", 1]} for source in families.SOURCES}))
    read: dict[str, Any] = families.read_families(path)
    assert read == {source: {"f": ["n", 1]} for source in families.SOURCES}


def test_a_model_that_fails_has_a_row_with_the_stage_and_one_line(tmp_path: Path) -> None:
    model = families.Model("timm", "none", "no_such_net")
    made = bench.run("edgeoe", model, multiple=1, limit=120, folder=tmp_path)
    assert (made["family"], made["outcome"]) == ("none", "load")
    assert made["reason"].startswith("teacher='timm:no_such_net': timm has no such model.")
    assert list(tmp_path.iterdir()) == [], "what the model wrote is gone"


def test_a_model_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    made = bench.run("edgeoe", families.Model("timm", "a", "b"), multiple=1, limit=0.2, folder=tmp_path)
    assert (made["outcome"], made["reason"]) == ("start", "stopped after 0.2 s")


def test_rows_are_read_as_they_were_added(tmp_path: Path) -> None:
    rows = [row(name="a", reason='one, "two"'), row(name="b", outcome="pass")]
    for one in rows:
        table.append(tmp_path / "edgeoe.csv", one)
    assert table.read_rows(tmp_path / "edgeoe.csv") == rows
    assert table.read_rows(tmp_path / "none.csv") == []


def test_the_summary_tells_refusals_from_failures_and_faster_from_slower() -> None:
    own = [
        row(source="timm", family="a", name="a1", outcome="pass", speedup="1.2"),
        row(source="timm", family="b", name="b1", outcome="pass", speedup="0.9", reason="legacy", spread="1e-05"),
        row(source="timm", family="c", name="c1", outcome="refused", reason="nothing to prune"),
        row(source="torchvision", family="d", name="d1", outcome="export", reason="no"),
    ]
    other = [row(source="timm", family="a", name="a1", outcome="prune", reason="bad shape")]
    text = table.summary({"edgeoe": own, "torch-pruning": other}, ["timm beit"])
    for line in (
        "| edgeoe | timm | 3 | 2 | 1 | 0 | 67 % |",
        "| edgeoe | torchvision | 1 | 0 | 0 | 1 | 0 % |",
        "| torch-pruning | timm | 1 | 0 | 0 | 1 | 0 % |",
        "edgeoe: 1 of 2 students are faster than their teachers; "
        "speed-up at 0.7 of the MACs: median 1.05, 0.90 to 1.20.",
        "Left out, over 35 M parameters: timm beit.",
        "- timm c (c1), refused: nothing to prune",
        "- torchvision d (d1), export: no",
        "- timm b (b1), pass: legacy",
        "Answer all images nearly alike (spread under 1e-3), so that parity says little: b1.",
        "- timm a (a1), prune: bad shape",
    ):
        assert line in text.splitlines()
    (table_row,) = [line for line in text.splitlines() if line.startswith("| timm | a | a1 |")]
    assert table_row.endswith("| prune |")


def test_no_tensor_of_a_network_to_be_tried_is_all_of_one_value() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 2))
    nn.init.zeros_(layer_of(model, "1").weight)
    nn.init.zeros_(layer_of(model, "2").weight)
    stages.enliven(model)
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    assert all(float(tensor.std()) > 0 for tensor in tensors)
    assert float(layer_of(model, "1").running_var.min()) > 0


def test_a_deep_network_still_tells_images_apart() -> None:
    torch.manual_seed(0)
    blocks = [part for _ in range(20) for part in (nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.Flatten(), nn.LazyLinear(10)).eval()
    x = torch.from_numpy(stages.pictures(4, (3, 44, 44))).float() / 255
    model(x)
    stages.enliven(model)
    stages.settle(model, x)
    assert float(stages.spread(stages.logits_of(model, x))) > 1e-2
    assert not any(module.training for module in model.modules())
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


def test_pictures_differ() -> None:
    pixels = stages.pictures(3, (3, 18, 10))
    assert (pixels.shape, pixels.dtype) == ((3, 3, 18, 10), np.uint8)
    assert float(np.abs(pixels.mean((2, 3))[0] - pixels.mean((2, 3))[1]).max()) > 5


@pytest.mark.parametrize(
    ("layers", "head"),
    [((nn.Conv2d(3, 10, 1), nn.Conv2d(10, 10, 1), nn.ReLU()), 1), ((nn.Conv2d(3, 4, 1), nn.Linear(4, 10)), 1)],
)
def test_the_last_layer_that_makes_as_many_logits_is_the_head(layers: tuple[nn.Module, ...], head: int) -> None:
    assert stages.heads(nn.Sequential(*layers)) == [layers[head]]


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["edgeoe", "torch-pruning"])
def test_a_small_network_passes(tool: str, tmp_path: Path) -> None:
    if tool == "torch-pruning":
        pytest.importorskip("torch_pruning")
    made = bench.run(tool, families.Model("timm", "byobnet", "test_byobnet"), multiple=1, limit=300, folder=tmp_path)
    assert (made["outcome"], made["reason"]) == ("pass", "")
    assert abs(made["macs_kept"] - 0.7) < 0.05
