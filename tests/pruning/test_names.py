"""Names told briefly."""

from fnmatch import fnmatch

import pytest

from edgeoe.pruning.names import by_reason, labels, pattern, shortened


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["stem"], "stem"),
        (["blocks.0.fc1", "blocks.1.fc1"], "blocks.*.fc1"),
        (["layer1.0.conv2", "layer1.1.conv2"], "layer1.*.conv2"),
        (["a.9.b", "a.10.b", "a.11.b"], "a.*.b"),
        (["1.0", "2.1"], "*.*"),
    ],
)
def test_a_pattern_keeps_the_numbers_that_all_share(names: list[str], told: str) -> None:
    assert pattern(names) == told
    assert all(fnmatch(name, told) for name in names)


def test_names_alike_but_for_numbers_are_told_at_once() -> None:
    names = [f"blocks.{n}.{layer}" for n in range(12) for layer in ("qkv", "fc1")]
    assert shortened(["stem", *names]) == "stem, blocks.*.qkv (12), blocks.*.fc1 (12)"
    assert shortened([]) == ""


def test_what_is_too_much_is_counted() -> None:
    assert shortened(["a", "b", "c.1", "c.2", "d"], most=2) == "a, b and 3 more"


def test_kinds_with_the_same_pattern_are_told_by_their_names() -> None:
    kinds = [("3", "4"), ("8", "9", "10", "11"), ("a.1", "a.2"), ("a.1", "a.2"), ("stem", "b.1.c")]
    assert labels(kinds) == {
        ("3", "4"): "* (2)",
        ("8", "9", "10", "11"): "* (4)",
        ("a.1", "a.2"): "a.* (2)",
        ("stem", "b.1.c"): "stem, b.1.c",
    }
    assert labels([("3", "4"), ("8", "9"), ("a",)]) == {("3", "4"): "3, 4", ("8", "9"): "8, 9", ("a",): "a"}
    assert labels([tuple("3456"), tuple("6789")]) == {
        tuple("3456"): "3, 4, 5 and 1 more",
        tuple("6789"): "6, 7, 8 and 1 more",
    }


def test_names_are_sorted_by_why() -> None:
    assert by_reason({"a": "small", "b": "odd", "c": "small"}) == {"small": ("a", "c"), "odd": ("b",)}
