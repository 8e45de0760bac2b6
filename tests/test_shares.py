"""Shares as people write them."""

from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.bounds import Fraction, Positive
from edgeoe.measure.quantity import quantity
from edgeoe.registry import QUANTITIES
from edgeoe.shares import is_share, read_share


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50%", 0.5),
        (" 3% ", 0.03),
        ("0.5", 0.5),
        ("1", 1.0),
        ("0", 0.0),
        ("12.5%", 0.125),
        ("150%", 1.5),
    ],
)
def test_a_share_is_read_in_both_ways(text: str, value: float) -> None:
    assert read_share(text) == pytest.approx(value)


@given(st.floats(0, 1))
def test_a_number_stays_what_it_is(value: float) -> None:
    assert read_share(value) == value
    assert read_share(str(value)) == value


@pytest.mark.parametrize("text", ["", "%", "half", "50%%", "1/2"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a share is written as 0\.5 or 50%\. Got "):
        read_share(text)


@pytest.mark.parametrize(
    ("hint", "share"),
    [
        (Fraction, True),
        (Fraction | None, True),
        (Annotated[float, Gt(0), Le(1)] | None, True),
        (Annotated[float, Ge(0), Le(0.5)], True),
        (Positive, False),
        (Annotated[float, Ge(0), Lt(5)], False),
        (Annotated[int, Ge(0), Le(1)], False),
        (float, False),
        (str | None, False),
    ],
)
def test_a_type_tells_whether_it_is_one(hint: Any, share: bool) -> None:
    assert is_share(hint) is share


def test_limits_of_a_budget_are_shares_where_they_are_fractions() -> None:
    assert {name for name in QUANTITIES if is_share(quantity(name).bounds)} == {
        "max_drop", "top1", "mean_recall", "rare_recall", "worst_recall",
    }  # fmt: skip
