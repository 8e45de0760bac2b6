"""Calibration images: every class has its part."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.balance.calibration import choose_images


def chosen(
    counts: list[int], pool: int, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    views = torch.rand(pool, len(counts), generator=generator).softmax(1)
    return labels, views, *choose_images(labels, views, count=count)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=10), st.integers(0, 200), st.integers(1, 120), st.integers(0, 9)
)
def test_no_image_comes_twice_and_no_class_takes_more_than_its_part(
    counts: list[int], pool: int, count: int, seed: int
) -> None:
    labels, _, mine, theirs = chosen(counts, pool, count, seed)
    assert len(mine.unique()) == len(mine)
    assert len(theirs.unique()) == len(theirs)
    assert len(mine) + len(theirs) <= count
    part = -(-count // len(counts))
    assert all(int((labels[mine] == k).sum()) <= part for k in range(len(counts)))
    if pool >= count:
        assert len(mine) + len(theirs) == count


def test_a_class_without_samples_is_stood_for_by_what_the_teacher_takes_for_it() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0])
    views = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9]])
    mine, theirs = choose_images(labels, views, count=4)
    assert mine.tolist() == [0, 1]
    assert theirs.tolist() == [3, 1]


@given(st.lists(st.integers(0, 9), min_size=2, max_size=6), st.integers(1, 40), st.integers(0, 9))
def test_each_class_takes_its_own_samples_first_and_then_its_surest_images(
    counts: list[int], count: int, seed: int
) -> None:
    labels, views, mine, theirs = chosen(counts, 60, count, seed)
    classes, free, expected = len(counts), set(range(60)), []
    for k in range(classes):
        part = count * (k + 1) // classes - count * k // classes
        own = [row for row, label in enumerate(labels.tolist()) if label == k][:part]
        assert [row for row in mine.tolist() if int(labels[row]) == k] == own
        surest = sorted(free, key=lambda row: -float(views[row, k]))[: part - len(own)]
        free -= set(surest)
        expected += surest
    assert theirs.tolist() == expected
