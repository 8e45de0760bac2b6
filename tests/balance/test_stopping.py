"""Early stopping by agreement with the teacher."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeoe.balance.stopping import BestWeights, balanced_agreement


def test_agreement_averages_within_each_class_of_the_teacher_first() -> None:
    teacher = torch.tensor([0, 0, 0, 0, 1, 2])
    student = torch.tensor([0, 0, 0, 1, 1, 0])
    assert balanced_agreement(student, teacher)[0] == pytest.approx((3 / 4 + 1 + 0) / 3)


def test_its_error_is_that_of_a_mean_of_shares() -> None:
    teacher = torch.tensor([0] * 4 + [1] * 9)
    student = torch.tensor([0, 0, 0, 1] + [1] * 6 + [0] * 3)
    variance = (3 / 4 * 1 / 4 / 4 + 6 / 9 * 3 / 9 / 9) / 2**2
    assert balanced_agreement(student, teacher)[1] == pytest.approx(variance**0.5)


def test_four_times_the_images_halve_the_error() -> None:
    teacher, student = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 0, 1, 0])
    few, many = (balanced_agreement(student.repeat(n), teacher.repeat(n)) for n in (1, 4))
    assert few[0] == pytest.approx(many[0])
    assert few[1] == pytest.approx(2 * many[1])
    assert many[1] > 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=50))
def test_agreement_is_a_share(pairs: list[tuple[int, int]]) -> None:
    student, teacher = (torch.tensor(column) for column in zip(*pairs, strict=True))
    found, error = balanced_agreement(student, teacher)
    assert 0 <= found <= 1
    assert 0 <= error <= 0.5
    assert (found == 1) == bool((student == teacher).all())
    assert (found == 0) == bool((student != teacher).all())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20), st.integers(2, 4))
def test_agreement_ignores_how_often_the_pool_holds_a_picture(pairs: list[tuple[int, int]], times: int) -> None:
    student, teacher = (torch.tensor(column) for column in zip(*pairs, strict=True))
    first = teacher == teacher[0]
    more_student, more_teacher = (torch.cat([part, part[first].repeat(times)]) for part in (student, teacher))
    more, plain = balanced_agreement(more_student, more_teacher), balanced_agreement(student, teacher)
    assert more[0] == pytest.approx(plain[0])
    assert more[1] <= plain[1] + 1e-9


def scored(scores: list[float], *, patience: int, error: float = 0.0) -> tuple[BestWeights, nn.Linear, list[bool]]:
    """`BestWeights` after `scores`, of a model whose weight is the number of the check, and what each said."""
    model, best = nn.Linear(1, 1), BestWeights(patience=patience)
    said = []
    for check, score in enumerate(scores):
        nn.init.constant_(model.weight, check)
        said.append(best.update(check, score, error, model))
    return best, model, said


def test_the_best_weights_come_back() -> None:
    best, model, _ = scored([0.1, 0.9, 0.3, 0.2], patience=10)
    best.restore(model)
    assert model.weight.item() == 1
    assert (best.step, best.score) == (1, 0.9)


def test_it_stops_after_so_many_worse_checks_in_a_row() -> None:
    _, _, said = scored([0.5, 0.4, 0.6, 0.5, 0.4, 0.3], patience=3)
    assert said == [False, False, False, False, False, True]


def test_the_latest_within_two_errors_of_the_highest_is_kept() -> None:
    best, model, said = scored([0.1, 0.9, 0.85, 0.82, 0.7], patience=2, error=0.05)
    best.restore(model)
    assert model.weight.item() == 3
    assert (best.step, best.score) == (3, 0.82)
    assert said == [False] * 5


def test_scores_do_not_sink_by_two_errors_after_the_other() -> None:
    best, _, said = scored([0.9, 0.85, 0.79, 0.75], patience=2, error=0.05)
    assert best.step == 1, "the third is within two errors of the second, but not of the highest"
    assert said == [False, False, False, True]


def test_of_equal_scores_the_later_is_kept() -> None:
    best, model, said = scored([0.5, 0.5, 0.5], patience=1)
    best.restore(model)
    assert model.weight.item() == 2
    assert not any(said)


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    best, model, said = scored([0.5, float("nan"), float("nan")], patience=2)
    best.restore(model)
    assert model.weight.item() == 0
    assert said == [False, False, True]


def test_scores_that_never_are_numbers_stop_after_so_many_checks() -> None:
    best, model, said = scored([float("nan")] * 3, patience=2)
    best.restore(model)
    assert said == [False, True, True]
    assert (model.weight.item(), best.step, best.score) == (2, -1, float("-inf"))


def test_restoring_before_any_check_changes_nothing() -> None:
    model = nn.Linear(1, 1)
    before = model.weight.item()
    BestWeights(patience=1).restore(model)
    assert model.weight.item() == before


def test_running_statistics_are_kept_too() -> None:
    model, best = nn.BatchNorm1d(1), BestWeights(patience=1)
    best.update(0, 1.0, 0.0, model)
    model(torch.tensor([[3.0], [5.0]]))
    best.restore(model)
    assert model.running_mean is not None
    assert model.running_mean.item() == 0
