"""Allocation to a budget: the solver against every combination of options."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeoe.pruning.programme import Choice, Option, Programme, Resource

GAP = 0.002  # that the solver may stop at, as a share of the least loss
LAYERS = ("a", "b", "c", "d")
quick = settings(max_examples=25)


@st.composite
def programmes(draw: st.DrawFn) -> Programme:
    """Up to five choices of up to four options over four layers; some lie within another, two resources at most."""
    figure = st.floats(0, 10, allow_subnormal=False).map(lambda value: round(value, 3))
    choices: list[Choice] = []
    for number in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 3))
        layers = draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=3, unique=True))
        losses = sorted(draw(st.lists(figure, min_size=count, max_size=count)))
        parts = sorted(draw(st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0]), min_size=count, max_size=count)))
        outer = [choice.name for choice in choices if not choice.within]
        within = draw(st.sampled_from(["", *outer]))
        options = [
            Option(0.0, {}),
            *(Option(loss, dict.fromkeys(layers, part)) for loss, part in zip(losses, parts, strict=True)),
        ]
        choices.append(Choice(str(number), tuple(options), within))
    resources = []
    for _ in range(draw(st.integers(1, 2))):
        savings = {
            choice.name: (0.0, *sorted(draw(st.lists(figure, min_size=n, max_size=n))))
            for choice in choices
            if (n := len(choice.options) - 1)
        }
        costs = draw(st.lists(st.integers(0, 10), min_size=len(LAYERS), max_size=len(LAYERS)))
        resources.append(Resource(savings, dict(zip(LAYERS, map(float, costs), strict=True))))
    return Programme(tuple(choices), tuple(resources))


def combinations(programme: Programme) -> Iterator[dict[str, int]]:
    """Every state of all choices in which none is narrowed within another that is pruned."""
    for states in itertools.product(*(range(len(choice.options)) for choice in programme.choices)):
        taken = {choice.name: state for choice, state in zip(programme.choices, states, strict=True) if state}
        if not any(choice.within in taken for choice in programme.choices if choice.name in taken):
            yield taken


def saves(programme: Programme, taken: dict[str, int], needed: Sequence[float], slack: float = 0.0) -> bool:
    return all(saved >= need - slack for saved, need in zip(programme.saved(taken), needed, strict=True))


@quick
@given(programmes(), st.lists(st.floats(0, 30), min_size=2, max_size=2))
def test_no_combination_that_saves_as_much_loses_less(programme: Programme, needs: list[float]) -> None:
    needed = needs[: len(programme.resources)]
    chosen = programme.least_loss(needed)
    losses = [programme.loss(taken) for taken in combinations(programme) if saves(programme, taken, needed)]
    clear = [taken for taken in combinations(programme) if saves(programme, taken, needed, -1e-5)]
    if chosen is None:
        assert not clear
        return
    assert chosen in list(combinations(programme)), "one option of each choice, and none within what is dropped"
    assert saves(programme, chosen, needed, 1e-5)
    if losses:
        assert programme.loss(chosen) <= min(losses) * (1 + GAP) + 1e-5


@quick
@given(programmes(), st.data())
def test_what_is_needed_of_a_known_combination_is_met(programme: Programme, data: st.DataObject) -> None:
    """The solver's constraint is `saved`: what a combination saves can be had, at no more than its loss."""
    known = data.draw(st.sampled_from(list(combinations(programme))))
    needed = [saved - 1e-6 for saved in programme.saved(known)]
    chosen = programme.least_loss(needed)
    assert chosen is not None
    assert saves(programme, chosen, needed, 1e-5)
    assert programme.loss(chosen) <= programme.loss(known) * (1 + GAP) + 1e-5


@quick
@given(programmes(), st.floats(0, 20), st.floats(0, 5))
def test_to_save_more_never_loses_less(programme: Programme, need: float, more: float) -> None:
    count = len(programme.resources)
    some, further = programme.least_loss([need] * count), programme.least_loss([need + more] * count)
    if some is None:
        assert further is None
    elif further is not None:
        assert programme.loss(some) <= programme.loss(further) * (1 + GAP) + 1e-5


@quick
@given(programmes(), st.floats(0, 20))
def test_the_same_programme_is_solved_alike(programme: Programme, need: float) -> None:
    again = Programme(programme.choices, programme.resources)
    needed = [need] * len(programme.resources)
    assert programme.least_loss(needed) == again.least_loss(needed)


@quick
@given(programmes(), st.floats(-5, 0))
def test_nothing_is_pruned_where_nothing_need_be_saved(programme: Programme, need: float) -> None:
    chosen = programme.least_loss([need] * len(programme.resources))
    assert chosen is not None
    assert programme.loss(chosen) == 0


@quick
@given(programmes())
def test_two_options_save_at_most_their_sum_and_at_least_the_larger(programme: Programme) -> None:
    for taken in combinations(programme):
        if len(taken) != 2:
            continue
        alone = [programme.saved({name: option}) for name, option in taken.items()]
        for both, one, other in zip(programme.saved(taken), *alone, strict=True):
            assert max(one, other) - 1e-9 <= both <= one + other + 1e-9


@quick
@given(programmes())
def test_the_smallest_student_is_one_that_can_be_made(programme: Programme) -> None:
    smallest = {name: option for name, option in programme.smallest().items() if option}
    assert smallest in list(combinations(programme))


def narrowing(name: str, saved: float, loss: float, shares: dict[str, float], within: str = "") -> tuple[Choice, float]:
    return Choice(name, (Option(0.0, {}), Option(loss, shares)), within), saved


def programme_of(*rows: tuple[Choice, float], layers: dict[str, float] | None = None) -> Programme:
    savings = {choice.name: (0.0, saved) for choice, saved in rows}
    return Programme(tuple(choice for choice, _ in rows), (Resource(savings, layers or {}),))


def test_two_halves_of_one_layer_save_three_quarters_of_it() -> None:
    """Half of the inputs and half of the outputs of a layer: p + q - p q."""
    one, other = narrowing("inputs", 4.0, 1.0, {"conv": 0.5}), narrowing("outputs", 4.0, 1.0, {"conv": 0.5})
    programme = programme_of(one, other, layers={"conv": 8.0})
    assert programme.saved({"inputs": 1, "outputs": 1}) == pytest.approx((6.0,))
    assert programme.least_loss([6.0]) == {"inputs": 1, "outputs": 1}
    assert programme.least_loss([6.1]) is None


def test_layers_apart_save_their_sum() -> None:
    programme = programme_of(
        narrowing("one", 4.0, 1.0, {"a": 0.5}), narrowing("other", 4.0, 1.0, {"b": 0.5}), layers={"a": 8.0, "b": 8.0}
    )
    assert programme.saved({"one": 1, "other": 1}) == (8.0,)


def test_a_group_within_a_dropped_block_is_not_narrowed() -> None:
    programme = programme_of(
        narrowing("block", 3.0, 2.0, {"a": 1.0}), narrowing("inner", 1.0, 0.1, {"a": 0.3}, "block")
    )
    assert programme.least_loss([1.0]) == {"inner": 1}
    assert programme.least_loss([2.0]) == {"block": 1}
    assert programme.least_loss([3.5]) is None
    assert {name: option for name, option in programme.smallest().items() if option} == {"block": 1}


def test_every_resource_is_saved() -> None:
    """Each choice saves one resource: both are needed, though either alone loses less."""
    choices = (narrowing("fast", 0, 1.0, {"a": 0.5})[0], narrowing("small", 0, 2.0, {"b": 0.5})[0])
    ms = Resource({"fast": (0.0, 5.0), "small": (0.0, 0.0)}, {})
    mb = Resource({"fast": (0.0, 0.0), "small": (0.0, 5.0)}, {})
    programme = Programme(choices, (ms, mb))
    assert programme.least_loss([5.0, 0.0]) == {"fast": 1}
    assert programme.least_loss([0.0, 5.0]) == {"small": 1}
    assert programme.least_loss([1.0, 1.0]) == {"fast": 1, "small": 1}
    assert programme.least_loss([5.1, 0.0]) is None


def test_a_programme_without_choices_saves_nothing() -> None:
    programme = Programme((), (Resource({}, {}),))
    assert programme.least_loss([0.0]) == {}
    assert programme.least_loss([0.1]) is None
    assert programme.smallest() == {}


def test_an_option_that_makes_the_network_slower_is_not_taken() -> None:
    """A width that the target computes badly."""
    choice = Choice("a", (Option(0.0, {}), Option(1.0, {"a": 0.1}), Option(2.0, {"a": 0.5})))
    programme = Programme((choice,), (Resource({"a": (0.0, -0.5, 1.0)}, {"a": 2.0}),))
    assert programme.least_loss([0.1]) == {"a": 2}
