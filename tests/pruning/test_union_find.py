"""Names: they are united, and found along axes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.pruning.union_find import Names, leading

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(st.lists(PAIRS, max_size=4))
def test_names_are_alike_just_where_a_chain_of_unions_joins_them(unions: list[list[tuple[int, int]]]) -> None:
    names = Names()
    own = torch.cat([torch.zeros(1, dtype=torch.float64), names.new(9)])  # the first is no name
    joined = {at: {at} for at in range(10)}
    for pairs in unions:
        left, right = (own[[pair[side] for pair in pairs]] for side in (0, 1))
        names.unite(left, right)
        for a, b in pairs:
            if a and b:
                both = joined[a] | joined[b]
                joined |= dict.fromkeys(both, both)
    found = names.find(own).tolist()
    for a in range(10):
        assert {b for b in range(10) if found[b] == found[a]} == joined[a]


def test_one_name_for_each_place_along_an_axis_unites_the_others() -> None:
    names = Names()
    table = names.new(6).view(2, 3)
    along = names.along(table, [1])
    assert len(set(along.tolist())) == 3
    assert torch.equal(names.find(table)[0], names.find(table)[1])
    assert names.vary(table, [1])
    assert not names.vary(table, [0])


def test_places_without_a_name_do_not_vary() -> None:
    names = Names()
    (one,) = names.new(1)
    assert not names.vary(torch.tensor([0.0, one, 0.0], dtype=torch.float64), [0])
    assert not names.vary(torch.zeros(3, dtype=torch.float64), [0])


def test_what_is_united_with_a_frozen_name_stays_for_the_first_reason() -> None:
    names = Names()
    first, second, third = names.new(3).split(1)
    names.freeze(first, "the first")
    names.freeze(second, "the second")
    names.unite(first, second)
    assert names.reasons()[int(names.find(second))] == "the first"
    assert int(names.find(third)) not in names.reasons()


def test_leading_axes_come_first_and_expanded_ones_are_read_once() -> None:
    names = Names().new(4)
    spread = names.view(1, 4, 1).expand(5, 4, 7)
    assert leading(spread, [1]).shape == (4, 1, 1)
    assert torch.equal(leading(spread, [-2]).flatten(), names)
