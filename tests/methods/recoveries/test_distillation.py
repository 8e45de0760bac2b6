"""Distillation of logits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeoe.methods import View, compress_with
from edgeoe.methods.recoveries.distillation import distillation
from edgeoe.settings import CompressSettings

SEED = st.integers(0, 10_000)
TEMPERATURE = st.floats(0.5, 20)


def logits(seed: int, rows: int = 4) -> torch.Tensor:
    return 5 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SEED, TEMPERATURE)
def test_equal_logits_are_no_distance_apart(seed: int, temperature: float) -> None:
    found = distillation(logits(seed), logits(seed), temperature=temperature)
    assert found.tolist() == [0.0] * 4


@given(SEED, SEED, TEMPERATURE)
def test_it_is_never_negative(student: int, teacher: int, temperature: float) -> None:
    found = distillation(logits(student), logits(teacher), temperature=temperature)
    assert found.min() >= -1e-9
    assert (found.max() > 1e-9) == (student != teacher)


@given(SEED, TEMPERATURE, st.floats(-50, 50), st.floats(-50, 50))
def test_a_shift_of_the_logits_changes_nothing(seed: int, temperature: float, up: float, down: float) -> None:
    student, teacher = logits(seed), logits(seed + 1)
    plain = distillation(student, teacher, temperature=temperature)
    shifted = distillation(student + up, teacher + down, temperature=temperature)
    assert shifted.tolist() == pytest.approx(plain.tolist(), rel=1e-9, abs=1e-9)


@given(SEED, TEMPERATURE)
def test_it_is_the_divergence_that_torch_computes(seed: int, temperature: float) -> None:
    student, teacher = logits(seed), logits(seed + 1)
    divergence = nn.KLDivLoss(reduction="batchmean")
    expected = temperature**2 * divergence(
        F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    )
    found = distillation(student, teacher, temperature=temperature)
    assert found.shape == (4,)
    assert float(found.mean()) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_rows_do_not_touch_each_other() -> None:
    student, teacher = logits(0), logits(1)
    alone = torch.cat([distillation(student[i : i + 1], teacher[i : i + 1], temperature=4.0) for i in range(4)])
    assert distillation(student, teacher, temperature=4.0).tolist() == pytest.approx(alone.tolist())


def test_the_gradient_leads_to_the_teacher() -> None:
    student, teacher = logits(0).requires_grad_(True), logits(1)
    before = distillation(student, teacher, temperature=4.0).sum()
    before.backward()
    assert student.grad is not None
    after = distillation(student - 0.1 * student.grad, teacher, temperature=4.0).sum()
    assert after < before


@pytest.mark.parametrize(("options", "lr"), [({}, 0.02), ({"lr": 0.3}, 0.3)])
def test_the_student_is_fitted_to_the_teacher_and_to_the_labels(
    options: dict[str, float], lr: float, network: Any, still: Any, settings: CompressSettings
) -> None:
    asked = replace(settings, method="kd", keep_macs=0.7, steps=9, options={**options, "temperature": 3.0})
    bench = still()
    compress_with(asked, network("chain"), bench)
    (task,) = bench.fitted
    assert (task.lr, task.max_steps, task.label_weight) == (lr, 9, 1.0)
    student, teacher = logits(0), logits(1)
    expected = distillation(student, teacher, temperature=3.0)
    assert torch.equal(task.distance(View(student, ()), View(teacher, ())), expected)
    assert not torch.allclose(expected, distillation(teacher, student, temperature=3.0)), "the order matters"
