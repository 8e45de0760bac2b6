"""Tables of interchangeable parts."""

from collections.abc import Mapping
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from edgeoe.errors import ConfigError
from edgeoe.registry import BACKENDS, METHODS, nearest, resolve
from edgeoe.targets.profile import Target

TABLES = [(METHODS, "compress"), (BACKENDS, "build")]


@pytest.mark.parametrize(("table", "verb"), TABLES)
def test_every_row_leads_to_a_class_with_the_verb_of_its_seam(table: Mapping[str, str], verb: str) -> None:
    assert table
    for name in table:
        part = resolve(table, name, kind="part")
        assert isinstance(part, type)
        assert callable(getattr(part, verb))


def test_profiles_may_name_just_the_backends_there_are() -> None:
    assert set(get_args(get_type_hints(Target)["backend"])) == set(BACKENDS)


def test_an_unknown_name_is_answered_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"^unknown backend 'onnxruntim'\. Did you mean 'onnxruntime'\?$"):
        resolve(BACKENDS, "onnxruntim", kind="backend")


def test_a_name_like_no_other_is_answered_with_all_in_order() -> None:
    with pytest.raises(ConfigError, match=r"^unknown method 'zzz'\. Known: kd, none\.$"):
        resolve({"none": "a:B", "kd": "c:D"}, "zzz", kind="method")


@examples(deadline=None)
@given(name=st.text(), known=st.lists(st.text("abcdef", min_size=1), min_size=1))
def test_the_answer_always_names_something_known(name: str, known: list[str]) -> None:
    answer = nearest(name, known)
    assert any(one in answer for one in known)


@given(known=st.lists(st.text("abcdef", min_size=1), min_size=1, unique=True))
def test_a_name_is_its_own_nearest(known: list[str]) -> None:
    assert nearest(known[0], known) == f"Did you mean {known[0]!r}?"
