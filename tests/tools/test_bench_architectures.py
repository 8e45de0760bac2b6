"""The benchmark over architectures: what it picks, what a row says when a model fails, and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import architecture_baseline as baseline
import architecture_families as families
import architecture_networks as networks
import architecture_stages as stages
import architecture_table as table
import architecture_teacher as teacher
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


NETWORKS = """
import os, sys, time
from torch import nn

def small() -> nn.Module:
    layers = (nn.Conv2d(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))

def ends() -> nn.Module:
    sys.exit(3)

def crashes() -> nn.Module:
    os.abort()

def sleeps() -> nn.Module:
    time.sleep(600)

FACTORIES = {factory.__name__: factory for factory in (small, ends, crashes, sleeps)}
SHAPES = {"small": (3, 24, 20)}
CLASSES = {"small": 4}
"""


@pytest.fixture
def outside(tmp_path: Path) -> dict[str, families.Model]:
    """The networks of a file of factories, by name."""
    file = tmp_path / "odd_ones.py"
    file.write_text(NETWORKS)
    return {model.name: model for model in networks.networks_in(file)}


def test_a_network_of_a_file_is_given_to_edgeoe_as_file_and_factory(
    outside: dict[str, families.Model], tmp_path: Path
) -> None:
    model = outside["small"]
    assert (model.source, model.family) == ("odd_ones", "small")
    task = networks.task_of(model, tmp_path, multiple=4)
    assert task.teacher == f"{tmp_path / 'odd_ones.py'}:small"
    assert (task.shape, task.classes, task.preprocess.size) == ((3, 24, 20), 4, (24, 20))
    task.save()
    assert networks.Task.read(tmp_path) == task
    assert networks.task_of(outside["ends"], tmp_path).shape == (3, 32, 32)


def test_a_published_network_has_its_own_preprocessing(tmp_path: Path) -> None:
    task = networks.task_of(families.Model("timm", "byobnet", "test_byobnet"), tmp_path)
    assert (task.teacher, task.shape, task.preprocess.size) == ("timm:test_byobnet", None, None)


@pytest.mark.parametrize(
    ("name", "outcome", "reason"),
    [
        ("ends", "refused", "it ends the program. Does it read the command line?"),
        ("crashes", "failed", "exit code -6: "),
        ("sleeps", "failed", "stopped after 20 s"),
    ],
)
def test_a_message_of_edgeoe_is_a_refusal_and_anything_else_a_failure(
    outside: dict[str, families.Model], tmp_path: Path, name: str, outcome: str, reason: str
) -> None:
    limit = 20 if name == "sleeps" else 500
    (place := tmp_path / "place").mkdir()
    row = bench.run("edgeoe", outside[name], multiple=0, limit=limit, folder=place, commit="abc")
    assert (row["outcome"], row["name"], row["commit"]) == (outcome, name, "abc")
    assert reason in row["reason"]
    assert row["stage"] in ("start", "prepare", "inspect")
    assert list(place.iterdir()) == [], "what the network wrote is gone"


def test_remarks_are_joined_until_an_outcome_replaces_them_and_costs_add_up() -> None:
    facts: dict[str, Any] = {}
    for new in (
        {"stage": "compress", "reason": "a note", "peak_mb": 90, "cpu_seconds": 2.0},
        {"stage": "export", "reason": "another", "peak_mb": 70, "cpu_seconds": 3.0},
    ):
        bench._merge(facts, new)
    assert facts == {"stage": "export", "reason": "a note another", "peak_mb": 90, "cpu_seconds": 5.0}
    bench._merge(facts, {"outcome": "refused", "reason": "no"})
    assert (facts["reason"], facts["stage"]) == ("no", "export")


def test_the_share_that_can_be_pruned_is_in_layers_of_groups_and_in_products_between_them() -> None:
    groups = [
        {"refused": "", "layers": ["a.qkv"], "consumers": ["a.proj"]},
        {"refused": "no", "layers": ["stem"], "consumers": ["a.qkv"]},
    ]
    macs_of = {"": 0, "a": 30, "a.qkv": 20, "a.proj": 10, "stem": 40}
    assert stages._prunable(groups, macs_of) == pytest.approx(0.6)


def test_of_several_rows_for_a_network_the_last_counts(tmp_path: Path) -> None:
    rows = [row(name="a", reason='one, "two"'), row(name="b", outcome="pass"), row(name="a", outcome="refused")]
    for one in rows:
        table.append(tmp_path / "edgeoe.csv", one)
    assert table.read_rows(tmp_path / "edgeoe.csv") == [rows[2], rows[1]]
    assert table.read_rows(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    ("now", "options", "run_again"),
    [("abc", [], ["b"]), ("abc-dirty", [], ["a", "b"]), ("def", [], ["a", "b"]), ("def", ["--keep"], ["b"])],
)
def test_a_row_of_another_commit_is_run_again_unless_it_is_kept(
    outside: dict[str, families.Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    now: str,
    options: list[str],
    run_again: list[str],
) -> None:
    file = tmp_path / "two.py"
    file.write_text("FACTORIES = {'a': None, 'b': None}")
    table.append(tmp_path / "edgeoe.csv", row(source="two", name="a", outcome="pass", commit="abc", seconds="1"))
    ran = []

    def run(tool: str, model: families.Model, **_: Any) -> dict[str, str]:
        ran.append(model.name)
        return row(source=model.source, name=model.name, outcome="pass", commit=now, seconds="1")

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(bench, "commit", lambda folder: now)
    words = ["--networks", str(file), "--sources", "--out", str(tmp_path), *options]
    monkeypatch.setattr("sys.argv", ["bench_architectures.py", *words])
    bench.main()
    assert sorted(ran) == run_again
    assert "| edgeoe | two | 2 | 2 | 0 | 0 | 100 % |" in (tmp_path / "summary.md").read_text()


def test_the_summary_tells_refusals_from_failures_and_faster_from_slower() -> None:
    mine = [
        row(source="timm", family="a", name="a1", outcome="pass", stage="pass", speedup="1.2", speedup_int8="3"),
        row(source="timm", family="b", name="b1", outcome="pass", speedup="0.9", reason="legacy", spread="1e-05"),
        row(source="timm", family="c", name="c1", outcome="refused", stage="compress", reason="nothing to prune"),
        row(source="torchvision", family="d", name="d1", outcome="failed", stage="export", reason="no", commit="abc"),
    ]
    mine = [{**one, "seconds": "90"} for one in mine]
    other = [row(source="timm", family="a", name="a1", outcome="failed", stage="prune", reason="bad shape")]
    text = table.summary({"edgeoe": mine, "torch-pruning": other}, ["timm beit"])
    for line in (
        "| edgeoe | timm | 3 | 2 | 1 | 0 | 67 % |",
        "| edgeoe | torchvision | 1 | 0 | 0 | 1 | 0 % |",
        "| edgeoe | all | 4 | 2 | 1 | 1 | 50 % |",
        "| torch-pruning | timm | 1 | 0 | 0 | 1 | 0 % |",
        "edgeoe: 1 of 2 students (50 %) are faster than their teachers; speed-up: median 1.05, 0.90 to 1.20; of int8 "
        "students against fp32 teachers: median 3.00.",
        "Not faster: b1 0.90.",
        "edgeoe: commit unknown (3 networks), abc (1 networks); 0.1 hours, 90 s a network.",
        "Left out, over 35 M parameters: timm beit.",
        "- timm c (c1), in compress: nothing to prune",
        "- torchvision d (d1), in export: no",
        "- timm b (b1): legacy",
        "Answer all images nearly alike (spread under 1e-3), so that parity says little: b1.",
        "- timm a (a1), in prune: bad shape",
    ):
        assert line in text.splitlines()
    (table_row,) = [line for line in text.splitlines() if line.startswith("| timm | a | a1 |")]
    assert table_row.endswith("| failed |")
    assert table.figures_of(mine) == {
        "networks": 4,
        "pass": 2,
        "refused": 1,
        "failed": 1,
        "faster": 0.5,
        "median_speedup": pytest.approx(1.05),
    }


def test_the_outside_networks_have_names_that_options_can_say_and_shapes() -> None:
    path = Path(bench.__file__).with_name("outside_networks.py")
    outside = networks.load_networks(path)
    assert len(outside.FACTORIES) >= 60
    assert all(name.isidentifier() and getattr(outside, name) is one for name, one in outside.FACTORIES.items())
    assert outside.SHAPES.keys() == outside.FACTORIES.keys()


def test_no_tensor_of_a_network_to_be_tried_is_all_of_one_value() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 2))
    nn.init.zeros_(layer_of(model, "1").weight)
    nn.init.zeros_(layer_of(model, "2").weight)
    teacher.randomise_constants(model)
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    assert all(float(tensor.std()) > 0 for tensor in tensors)
    assert float(layer_of(model, "1").running_var.min()) > 0


def test_a_deep_network_still_tells_images_apart() -> None:
    torch.manual_seed(0)
    blocks = [part for _ in range(20) for part in (nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.Flatten(), nn.LazyLinear(10)).eval()
    x = torch.from_numpy(teacher.pictures(4, (3, 44, 44))).float() / 255
    model(x)
    teacher.randomise_constants(model)
    teacher.settle(model, x)
    assert float(teacher.spread(teacher.logits_of(model, x))) > 1e-2
    assert not any(module.training for module in model.modules())
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


def test_small_initial_weights_are_made_as_large_as_a_deep_network_needs() -> None:
    torch.manual_seed(0)
    blocks = [part for _ in range(8) for part in (nn.Conv2d(8, 8, 3), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=1e-3)
    x = torch.from_numpy(teacher.pictures(4, (3, 24, 24))).float() / 255
    assert float(teacher.spread(teacher.logits_of(model, x))) < teacher.ALIKE
    teacher.strengthen(model)
    assert float(teacher.spread(teacher.logits_of(model, x))) > 10 * teacher.ALIKE


def test_pictures_differ() -> None:
    pixels = teacher.pictures(3, (3, 18, 10))
    assert (pixels.shape, pixels.dtype) == ((3, 3, 18, 10), np.uint8)
    assert float(np.abs(pixels.mean((2, 3))[0] - pixels.mean((2, 3))[1]).max()) > 5


@pytest.mark.parametrize(
    ("layers", "head"),
    [((nn.Conv2d(3, 10, 1), nn.Conv2d(10, 10, 1), nn.ReLU()), 1), ((nn.Conv2d(3, 4, 1), nn.Linear(4, 10)), 1)],
)
def test_the_last_layer_that_makes_as_many_logits_is_the_head(layers: tuple[nn.Module, ...], head: int) -> None:
    assert baseline.heads(nn.Sequential(*layers), 10) == [layers[head]]


@pytest.mark.slow
def test_a_small_network_passes(outside: dict[str, families.Model], tmp_path: Path) -> None:
    (place := tmp_path / "place").mkdir()
    row = bench.run("edgeoe", outside["small"], multiple=1, limit=500, folder=place)
    assert (row["outcome"], row["reason"], row["stage"], row["method"]) == ("pass", "", "pass", "mir")
    assert abs(row["macs_kept"] - 0.7) < 0.05
    assert (row["input"], row["exporter"]) == ("3x24x20", "dynamo")
    assert row["speedup_int8"] > 0


@pytest.mark.slow
def test_a_small_network_is_pruned_by_the_baseline(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    model = families.Model("timm", "byobnet", "test_byobnet")
    row = bench.run("torch-pruning", model, multiple=1, limit=300, folder=tmp_path)
    assert (row["outcome"], row["reason"]) == ("pass", "")
    assert abs(row["macs_kept"] - 0.7) < 0.05
