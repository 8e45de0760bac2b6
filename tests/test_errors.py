"""The exception tree."""

import re

from edgeoe import errors
from edgeoe.errors import EdgeoeError


def test_the_docstring_draws_the_tree_of_classes() -> None:
    (root,) = re.findall(r"^(\w+Error) ", errors.__doc__ or "", re.M)
    branches = re.findall(r"^[├└]── (\w+Error) ", errors.__doc__ or "", re.M)
    assert root == "EdgeoeError"
    assert branches == [kind.__name__ for kind in EdgeoeError.__subclasses__() if kind.__module__ == errors.__name__]
    assert sorted([root, *branches, "first_line"]) == sorted(errors.__all__)


def test_no_error_stands_outside_the_tree() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(kinds) > 1
    assert all(issubclass(kind, EdgeoeError) for kind in kinds)


def test_an_error_reads_as_its_message() -> None:
    assert str(EdgeoeError("a.toml:3: what and how")) == "a.toml:3: what and how"
