"""Which rows a batch has."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.balance.sampler import Draw, Sampler

COUNTS = (12, 5, 1)
PRIOR = (0.05, 0.35, 0.6)


def sampler(**changes: Any) -> Sampler:
    plain: dict[str, Any] = {
        "labels": torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS)),
        "batch": 16,
        "pool_indices": torch.arange(100, 160),
        "ood_batch": 8,
        "prior": torch.tensor(PRIOR),
        "padding": 2,
    }
    return Sampler(**{**plain, **changes})


def rows(draw: Draw) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Every sample row and every OOD row with all that was drawn for it, sorted."""
    how = torch.cat([draw.offsets, draw.flips[:, None].long()], dim=1)
    own = len(draw.samples)
    samples = torch.cat([draw.samples[:, None], how[:own]], dim=1)
    ood = torch.cat([torch.stack([draw.pool, draw.ood_labels], dim=1), how[own:]], dim=1)
    return sorted(map(tuple, samples.tolist())), sorted(map(tuple, ood.tolist()))


@given(st.integers(0, 2**31 - 1), st.integers(0, 10_000))
def test_a_draw_follows_from_seed_and_step(seed: int, step: int) -> None:
    first, again = sampler(seed=seed), sampler(seed=seed)
    first.draw(step + 1)  # what was drawn before does not matter
    torch.rand(1)
    assert rows(first.draw(step)) == rows(again.draw(step))


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 10_000)), min_size=2, max_size=2, unique=True))
def test_another_seed_or_step_gives_another_draw(pairs: list[tuple[int, int]]) -> None:
    one, other = (sampler(seed=seed).draw(step) for seed, step in pairs)
    assert rows(one) != rows(other)


PARTS = ("samples", "pool", "ood_labels", "offsets", "flips")


@given(st.integers(0, 1000), st.integers(0, 10_000))
def test_the_seed_alone_changes_every_part_of_a_draw(seed: int, step: int) -> None:
    one, other = (sampler(batch=40, ood_batch=40, seed=seed).draw(step) for seed in (seed, seed + 1))
    assert [part for part in PARTS if torch.equal(getattr(one, part), getattr(other, part))] == []


@given(st.integers(0, 1000), st.integers(0, 10_000))
def test_the_step_alone_changes_every_part_of_a_draw(seed: int, step: int) -> None:
    one, other = (sampler(batch=40, ood_batch=40, seed=seed).draw(step) for step in (step, step + 1))
    assert [part for part in PARTS if torch.equal(getattr(one, part), getattr(other, part))] == []


@pytest.mark.parametrize("world_size", [1, 2, 4])
@given(step=st.integers(0, 1000), samples=st.integers(1, 4), ood=st.integers(0, 4))
def test_the_shares_of_all_processes_are_the_whole_batch(world_size: int, step: int, samples: int, ood: int) -> None:
    whole = sampler(batch=samples * world_size, ood_batch=ood * world_size).draw(step)
    shares = [whole.share(rank, world_size) for rank in range(world_size)]
    assert {len(share.samples) for share in shares} == {samples}
    assert {len(share.pool) for share in shares} == {ood}
    own, pool = zip(*map(rows, shares), strict=True)
    assert (sorted(chain.from_iterable(own)), sorted(chain.from_iterable(pool))) == rows(whole)


@given(st.integers(1, 60), st.integers(0, 100))
def test_samples_as_they_are_come_in_whole_passes(batch: int, step: int) -> None:
    drawn = sampler(batch=batch).draw(step).samples
    times = torch.bincount(drawn, minlength=sum(COUNTS))
    assert len(drawn) == batch
    assert times.max() - times.min() <= 1


def test_balanced_samples_draw_every_class_alike() -> None:
    balanced = sampler(balanced=True, batch=64)
    labels = torch.cat([balanced.labels[balanced.draw(step).samples] for step in range(100)])
    shares = torch.bincount(labels) / len(labels)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.025)  # 4 standard deviations of 6,400 draws


def test_every_sample_of_a_class_is_as_likely_in_a_balanced_draw() -> None:
    balanced = sampler(balanced=True, batch=64)
    times = torch.bincount(torch.cat([balanced.draw(step).samples for step in range(200)]), minlength=sum(COUNTS))
    assert times[:12].tolist() == pytest.approx([12_800 / 36] * 12, rel=0.25)


def test_ood_labels_follow_the_prior_in_the_long_run() -> None:
    drawn = torch.cat([sampler(ood_batch=64).draw(step).ood_labels for step in range(200)])
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    assert shares.tolist() == pytest.approx(PRIOR, abs=0.018)  # 4 standard deviations of 12,800 draws


def test_pool_images_are_drawn_from_the_given_ones_only() -> None:
    drawn = torch.cat([sampler(pool_indices=torch.tensor([3, 7, 9])).draw(step).pool for step in range(20)])
    assert set(drawn.tolist()) == {3, 7, 9}


@given(st.integers(0, 6), st.integers(0, 100))
def test_offsets_lie_within_the_padding(padding: int, step: int) -> None:
    offsets = sampler(padding=padding).draw(step).offsets
    assert offsets.shape == (24, 2)
    assert offsets.min() >= 0
    assert offsets.max() <= 2 * padding


def test_every_offset_comes_up() -> None:
    offsets = torch.cat([sampler(padding=2).draw(step).offsets for step in range(20)])
    assert set(offsets[:, 0].tolist()) == set(offsets[:, 1].tolist()) == set(range(5))


def test_half_of_the_rows_are_mirrored_and_none_without_flip() -> None:
    flips = torch.cat([sampler().draw(step).flips for step in range(200)])
    assert float(flips.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert not any(sampler(flip=False).draw(step).flips.any() for step in range(20))


@given(st.integers(0, 100))
def test_without_ood_rows_only_samples_are_drawn(step: int) -> None:
    draw = sampler(ood_batch=0, pool_indices=torch.empty(0, dtype=torch.long)).draw(step)
    assert len(draw.pool) == len(draw.ood_labels) == 0
    assert {draw.samples.dtype, draw.pool.dtype, draw.ood_labels.dtype} == {torch.long}, "labels are joined with them"
    assert len(draw.offsets) == len(draw.flips) == len(draw.samples) == 16


@given(st.integers(0, 100))
def test_without_samples_only_ood_rows_are_drawn(step: int) -> None:
    draw = sampler(batch=0, labels=torch.empty(0, dtype=torch.long)).draw(step)
    assert (len(draw.samples), draw.samples.dtype) == (0, torch.long)
    assert len(draw.offsets) == len(draw.flips) == len(draw.pool) == len(draw.ood_labels) == 8


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_indices_stay_within_what_there_is(seed: int, step: int) -> None:
    draw = sampler(seed=seed).draw(step)
    assert draw.samples.min() >= 0
    assert draw.samples.max() < sum(COUNTS)
    assert draw.pool.min() >= 100
    assert draw.pool.max() < 160


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 1000))
def test_augmented_images_are_windows_of_the_padded_and_mirrored_ones(
    height: int, width: int, padding: int, seed: int
) -> None:
    draw = sampler(batch=3, ood_batch=2, padding=padding, seed=seed).draw(0)
    pixels = torch.randint(1, 256, (5, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()
    found = draw.augment(pixels, padding=padding)
    assert found.dtype == torch.uint8
    for image, made, (top, left), flipped in zip(
        pixels, found, draw.offsets.tolist(), draw.flips.tolist(), strict=True
    ):
        whole = image.numpy()[:, :, ::-1] if flipped else image.numpy()
        padded = np.pad(whole, ((0, 0), (padding, padding), (padding, padding)))
        assert np.array_equal(made.numpy(), padded[:, top : top + height, left : left + width])
