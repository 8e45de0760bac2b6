"""Union-find over labels, one by one and along axes of tensors."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.pruning.union_find import UnionFind, leading

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(st.lists(PAIRS, max_size=4))
def test_labels_share_a_representative_just_where_a_chain_of_unions_joins_them(
    unions: list[list[tuple[int, int]]],
) -> None:
    sets = UnionFind()
    own = torch.cat([torch.zeros(1, dtype=torch.float64), sets.new(9)])  # 0 is no label
    joined = {at: {at} for at in range(10)}
    for pairs in unions:
        left, right = (own[[pair[side] for pair in pairs]] for side in (0, 1))
        sets.union(left, right)
        for a, b in pairs:
            if a and b:
                both = joined[a] | joined[b]
                joined |= dict.fromkeys(both, both)
    found = sets.find(own).tolist()
    for a in range(10):
        assert {b for b in range(10) if found[b] == found[a]} == joined[a]


def test_labels_that_share_an_index_along_an_axis_are_united() -> None:
    sets = UnionFind()
    table = sets.new(6).view(2, 3)
    along = sets.union_along(table, [1])
    assert len(set(along.tolist())) == 3
    assert torch.equal(sets.find(table)[0], sets.find(table)[1])
    assert sets.varies(table, [1])
    assert not sets.varies(table, [0])


def test_zeros_do_not_vary() -> None:
    sets = UnionFind()
    (one,) = sets.new(1)
    assert not sets.varies(torch.tensor([0.0, one, 0.0], dtype=torch.float64), [0])
    assert not sets.varies(torch.zeros(3, dtype=torch.float64), [0])


def test_a_set_is_refused_for_the_reason_of_any_of_its_labels_the_first_one_given() -> None:
    sets = UnionFind()
    first, second, third = sets.new(3).split(1)
    sets.refuse(first, "the first")
    sets.refuse(second, "the second")
    sets.union(first, second)
    assert sets.reasons()[int(sets.find(second))] == "the first"
    assert int(sets.find(third)) not in sets.reasons()


def test_leading_axes_come_first_and_expanded_ones_are_read_once() -> None:
    labels = UnionFind().new(4)
    spread = labels.view(1, 4, 1).expand(5, 4, 7)
    assert leading(spread, [1]).shape == (4, 1, 1)
    assert torch.equal(leading(spread, [-2]).flatten(), labels)
