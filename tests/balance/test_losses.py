"""The joint distillation loss, against its formula written out in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from edgeoe.balance.losses import RowWeights, joint_loss, teacher_guidance

K = 4
WEIGHTS = RowWeights(labels=0.7, ood=1.3, regulariser=0.2, class_weights=torch.tensor([0.2, 0.8, 1.2, 1.8]))


def rows(n: int, *, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Imitation (n,), student and teacher logits (n, K), labels (n,)."""
    g = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, generator=g, dtype=dtype),
        3 * torch.randn(n, K, generator=g, dtype=dtype),
        3 * torch.randn(n, K, generator=g, dtype=dtype),
        torch.randint(K, (n,), generator=g),
    )


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
def test_it_is_the_formula(samples: int, ood: int, seed: int) -> None:
    distillation, student, teacher, labels = rows(samples + ood, seed=seed)
    weights = replace(WEIGHTS, class_weights=WEIGHTS.class_weights.double())
    omega = weights.class_weights.tolist()
    own, other = 0.0, 0.0
    for row in range(samples + ood):
        label = int(labels[row])
        cross_entropy = -math.log(softmax(student[row].numpy())[label])
        if row < samples:
            own += float(distillation[row]) + 0.7 * cross_entropy
        else:
            guidance = sum(p * w for p, w in zip(softmax(teacher[row].numpy()), omega, strict=True))
            other += 1.3 * guidance * float(distillation[row]) + 0.2 * omega[label] * cross_entropy
    found = joint_loss(distillation, student, teacher, labels=labels, samples=samples, weights=weights)
    assert float(found) == pytest.approx(own / samples + other / ood, rel=1e-9)


def test_without_ood_rows_it_is_the_plain_loss() -> None:
    distillation, student, teacher, labels = rows(5, seed=0)
    found = joint_loss(distillation, student, teacher, labels=labels, samples=5, weights=WEIGHTS)
    plain = distillation.mean() + 0.7 * torch.nn.functional.cross_entropy(student, labels)
    assert float(found) == pytest.approx(float(plain), rel=1e-12)


def test_weights_of_zero_leave_the_plain_loss_of_the_samples() -> None:
    distillation, student, teacher, labels = rows(8, seed=1, dtype=torch.float32)
    nothing = replace(WEIGHTS, ood=0.0, regulariser=0.0)
    with_ood = joint_loss(distillation, student, teacher, labels=labels, samples=5, weights=nothing)
    plain = joint_loss(distillation[:5], student[:5], teacher[:5], labels=labels[:5], samples=5, weights=nothing)
    assert float(with_ood) == pytest.approx(float(plain))


def test_without_samples_only_the_ood_rows_count() -> None:
    distillation, student, teacher, labels = rows(6, seed=2, dtype=torch.float32)
    alone = joint_loss(distillation[2:], student[2:], teacher[2:], labels=labels[2:], samples=0, weights=WEIGHTS)
    both = joint_loss(distillation, student, teacher, labels=labels, samples=2, weights=WEIGHTS)
    own = joint_loss(distillation[:2], student[:2], teacher[:2], labels=labels[:2], samples=2, weights=WEIGHTS)
    assert float(alone) == pytest.approx(float(both - own), rel=1e-5)
    assert float(alone) > 0


def test_with_even_class_weights_every_ood_row_weighs_1() -> None:
    distillation, student, teacher, labels = rows(6, seed=2, dtype=torch.float32)
    plain = replace(WEIGHTS, class_weights=torch.ones(K), regulariser=0.0)
    found = joint_loss(distillation, student, teacher, labels=labels, samples=2, weights=plain)
    own = joint_loss(distillation[:2], student[:2], teacher[:2], labels=labels[:2], samples=2, weights=plain)
    assert float(found - own) == pytest.approx(1.3 * float(distillation[2:].mean()), rel=1e-5)


def test_guidance_favours_rows_in_which_the_teacher_sees_rare_classes() -> None:
    certain = torch.eye(K) * 50
    assert teacher_guidance(certain, WEIGHTS.class_weights).tolist() == pytest.approx([0.2, 0.8, 1.2, 1.8], rel=1e-5)
    assert teacher_guidance(torch.zeros(1, K), WEIGHTS.class_weights).tolist() == pytest.approx([1.0])


@given(st.integers(0, 10_000))
def test_balanced_classes_make_guidance_1(seed: int) -> None:
    _, _, teacher, _ = rows(5, seed=seed, dtype=torch.float32)
    assert teacher_guidance(teacher, torch.ones(K)).tolist() == pytest.approx([1.0] * 5, rel=1e-5)


def test_gradients_reach_the_student_from_every_row() -> None:
    distillation, student, teacher, labels = rows(6, seed=3, dtype=torch.float32)
    student.requires_grad_(True)
    distillation.requires_grad_(True)
    joint_loss(distillation, student, teacher, labels=labels, samples=3, weights=WEIGHTS).backward()
    assert student.grad is not None
    assert (student.grad.abs().sum(1) > 0).all()
    assert distillation.grad is not None
    assert distillation.grad[:3].tolist() == pytest.approx([1 / 3] * 3)
    expected = 1.3 * teacher_guidance(teacher[3:], WEIGHTS.class_weights) / 3
    assert distillation.grad[3:].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
