"""Mimicking then replacing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from layers import layer_of
from torch import nn

from edgeoe.errors import PruningError
from edgeoe.methods import View, compress_with
from edgeoe.methods.cuts.channels import Channels
from edgeoe.methods.recoveries.features import FeatureMimicking, feature_distance, mimicking_task
from edgeoe.models.observation import HookPoint
from edgeoe.models.structure import read_structure
from edgeoe.settings import CompressSettings

SHAPE = (3, 16, 16)
Network = Callable[[str], nn.Module]


@pytest.fixture
def asked(settings: CompressSettings) -> CompressSettings:
    return replace(settings, method="mir", keep_macs=0.6, options={"lr": 0.03}, steps=7)


def features(*shape: int, seed: int = 0) -> View:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return View(torch.zeros(shape[0], 3), (x,))


def test_the_distance_is_a_mean_square_of_each_row() -> None:
    student, teacher = features(3, 4, 2, 5), features(3, 4, 2, 5, seed=1)
    expected = [
        float((a - b).square().mean()) for a, b in zip(student.activations[0], teacher.activations[0], strict=True)
    ]
    assert feature_distance(student, teacher).tolist() == pytest.approx(expected)
    assert feature_distance(student, student).tolist() == [0.0] * 3


def test_the_distance_is_taken_in_float32() -> None:
    half = View(torch.zeros(1, 3), (torch.full((1, 4), 300.0, dtype=torch.float16),))
    other = View(torch.zeros(1, 3), (torch.full((1, 4), -300.0, dtype=torch.float16),))
    assert feature_distance(half, other).tolist() == [600.0**2], "more than float16 holds"


def test_everything_but_the_head_learns(network: Network) -> None:
    teacher = network("stages")
    stage = mimicking_task(read_structure(teacher, SHAPE), lr=0.02, steps=10)
    assert stage.trains is not None
    learns = [name for name, _ in teacher.named_parameters() if not stage.trains(name)]
    assert learns == ["head.weight", "head.bias"]
    assert stage.watch == (HookPoint("late"),)
    assert stage.label_weight == 0.0


def test_the_head_reads_as_many_channels_as_before(network: Network, still: Any, asked: CompressSettings) -> None:
    teacher, bench = network("stages"), still()
    made = compress_with(asked, teacher, bench)
    refused = {group.name: group.refused for group in made.pruned.groups if group.refused}
    (stream,) = (group for group in made.pruned.groups if "head" in group.consumers)
    assert refused[stream.name] == "head classifies them, and stays as it is"
    assert stream.name not in made.pruned.removed
    assert made.pruned.removed, "others lost channels"
    assert layer_of(made.pruned.model, "late.1.two.0").weight.shape[0] == 16
    assert torch.equal(layer_of(made.pruned.model, "head").weight, layer_of(teacher, "head").weight)
    (stage,) = bench.fitted
    assert (stage.lr, stage.max_steps) == (0.03, 7)


def test_the_learning_rate_is_that_of_the_recovery_unless_it_is_given(
    network: Network, still: Any, asked: CompressSettings
) -> None:
    bench = still()
    for options in ({}, {"lr": 0.02}):
        compress_with(replace(asked, options=options), network("stages"), bench)
    assert [task.lr for task in bench.fitted] == [0.05, 0.02]


def test_a_cut_that_leaves_fewer_features_is_refused(network: Network, still: Any, asked: CompressSettings) -> None:
    teacher, bench = network("chain"), still()
    pruned = Channels(asked).prune(teacher, bench)
    with pytest.raises(PruningError, match=r"features of the teacher's shape, .*: pair it with a cut that spares what"):
        FeatureMimicking(asked).recover(teacher, pruned, bench)
    assert bench.fitted == []


def test_features_of_student_and_teacher_have_one_shape(network: Network, still: Any, asked: CompressSettings) -> None:
    teacher, bench, shapes = network("chain"), still(), []

    def fitting(student: nn.Module, stage: Any) -> None:
        for model in (teacher, student):
            model.get_submodule(stage.watch[0].module).register_forward_hook(
                lambda module, given, result: shapes.append(result.shape)
            )
            model(bench.x)

    bench.fitting = fitting
    compress_with(asked, teacher, bench)
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 4, "before pooling"
