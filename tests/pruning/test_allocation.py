"""How many channels each group loses: steps of a group, and the search for a share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgeoe.pruning.allocation import Share, Unit, is_met, nearest_cut, prunable_units, width_steps
from edgeoe.pruning.groups import Group


def group(width: int, *, rows: int = 1, name: str = "a") -> Group:
    """A group of `width` channels, each of so many rows of its layer."""
    spread = tuple(tuple(range(at * rows, (at + 1) * rows)) for at in range(width))
    return Group(name, tuple(range(width)), producers={name: spread})


@pytest.mark.parametrize(
    ("width", "multiple", "below", "left"),
    [
        (32, 8, False, [24, 16, 8]),
        (30, 8, False, [24, 16, 8]),
        (8, 8, False, []),
        (6, 8, False, []),
        (5, 1, False, [4, 3, 2, 1]),
        (160, 8, False, [*range(152, 9, -8)]),
        (32, 8, True, [24, 16, 8, 4, 2]),
        (16, 8, True, [8, 4, 2, 1]),
        (12, 8, True, [8, 4, 2, 1]),
        (8, 8, True, [4, 2, 1]),
        (6, 8, True, [4, 2, 1]),
        (1, 8, True, []),
        (5, 1, True, [4, 3, 2, 1]),
        (160, 8, True, [*range(152, 9, -8)]),
    ],
)
def test_a_group_shrinks_in_multiples_and_below_them_by_halves(
    width: int, multiple: int, below: bool, left: list[int]
) -> None:
    edges = [edge for edge, _ in width_steps(group(width), multiple, below=below)]
    assert [width - edge for edge in edges] == left


def test_steps_follow_one_another_in_the_order_of_the_group() -> None:
    steps = [channels for _, channels in width_steps(group(20), 8, below=True)]
    assert steps == [(0, 1, 2, 3), (*range(4, 12),), (*range(12, 16),), (16, 17)]


@pytest.mark.parametrize(("multiple", "left"), [(8, [4, 2]), (16, [4]), (12, [3])])
def test_the_rows_of_a_layer_stay_at_multiples_where_a_channel_has_several(multiple: int, left: list[int]) -> None:
    assert [6 - edge for edge, _ in width_steps(group(6, rows=4), multiple, below=False)] == left


def shares(saved: Mapping[str, float]) -> Share:
    """What is kept where each channel of a group saves that share."""
    return lambda removed: 1 - sum(saved[name] * len(channels) for name, channels in removed.items())


def units(*ranked: tuple[float, str, int]) -> list[Unit]:
    return [Unit(rank, name, (channel,)) for rank, name, channel in ranked]


def test_units_of_low_rank_go_first() -> None:
    cut = nearest_cut(
        units((1, "a", 0), (2, "b", 0), (3, "a", 1), (4, "b", 1)), keep=0.6, share=shares({"a": 0.2, "b": 0.2})
    )
    assert cut.removed == {"a": (0,), "b": (0,)}
    assert cut.kept == pytest.approx(0.6)


def test_a_unit_that_is_too_large_is_passed_over_for_one_that_fits() -> None:
    cut = nearest_cut(units((1, "large", 0), (2, "small", 0)), keep=0.9, share=shares({"large": 0.5, "small": 0.1}))
    assert cut.removed == {"small": (0,)}


def test_where_no_single_move_fits_two_groups_move() -> None:
    """0.5 goes first, and 0.12 more are wanted: back to 0.2 and on by 0.42."""
    saved = {"a": 0.3, "b": 0.2, "c": 0.42}
    cut = nearest_cut(units((1, "a", 0), (2, "b", 0), (3, "c", 0)), keep=0.38, share=shares(saved))
    assert cut.removed == {"b": (0,), "c": (0,)}
    assert cut.kept == pytest.approx(0.38)


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.01])
def test_the_nearest_is_taken_where_the_share_cant_be_met_but_never_the_whole(keep: float) -> None:
    cut = nearest_cut(units((1, "a", 0), (2, "a", 1)), keep=keep, share=shares({"a": 0.3}))
    assert cut.removed == {"a": (0,) if keep > 0.55 else (0, 1)}
    assert not is_met(cut.kept, keep)


def test_the_search_counts_few_networks_however_many_units_there_are() -> None:
    counted = []

    def share(removed: Mapping[str, tuple[int, ...]]) -> float:
        counted.append(removed)
        return 1 - sum(len(channels) for channels in removed.values()) / 4000

    ranked = prunable_units([group(1000, name=name) for name in "abc"], multiple=1, share=share)
    assert nearest_cut(ranked, keep=0.5, share=share).kept == pytest.approx(0.5, rel=0.02)
    counted.clear()
    nearest_cut(ranked, keep=0.001, share=share)
    assert len(counted) < 20, "out of reach is known without trying every group"


def test_groups_that_are_refused_have_no_units() -> None:
    refused = Group("a", (0, 1, 2), refused="no")
    assert prunable_units([refused], multiple=1, share=lambda removed: 1.0) == []
