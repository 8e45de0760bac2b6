"""Classes in the order of a teacher's outputs."""

from pathlib import Path

import pytest

from edgeoe.class_names import class_names, names_a_file, natural_order
from edgeoe.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "dog\ncat\nbig bird\n"),
        ("a.txt", "﻿dog\r\n\r\n# a comment\r\ncat\r\n  big bird  "),
        ("a.names", "dog\ncat\nbig bird"),
        ("a.json", '["dog", "cat", "big bird"]'),
        ("a.json", '{"0": "dog", "2": "big bird", "1": "cat"}'),
        ("a.JSON", '{"cat": 1, "big bird": 2, "dog": 0}'),
    ],
)
def test_a_file_gives_the_names_in_order(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert class_names([str(tmp_path / name)]) == ("dog", "cat", "big bird")


def test_names_stand_for_themselves_or_between_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert class_names(["dog", "cat"]) == ("dog", "cat")
    assert class_names(["dog, cat,ant"]) == ("dog", "cat", "ant")
    assert class_names(["a,b", "c"]) == ("a,b", "c")
    monkeypatch.chdir(tmp_path)
    Path("a,b").write_text("dog\ncat\n")
    assert class_names(["a,b"]) == ("dog", "cat")


def test_a_text_without_commas_is_a_file() -> None:
    assert names_a_file("classes.txt")
    assert not names_a_file("a,b", folder=Path("nowhere"))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["away.txt"], r"--classes away\.txt: can't be read: No such file or directory\. Give a file with one class"),
        (["a,a"], r"--classes: a is listed more than once\."),
        (["a,,b"], r"--classes: a class has no name\."),
        (["a", ""], r"--classes: a class has no name\."),
    ],
)
def test_what_names_no_classes_is_refused(given: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        class_names(given)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.txt", "# none\n", "has no class names"),
        ("a.txt", "one\n", r"must name at least 2 classes\. Got 1"),
        ("a.txt", "a\nb\na\n", "a is listed more than once"),
        ("a.json", "{", "has no class names: "),
        ("a.json", "3", r"has no class names: must be a list of names, \{"),
        ("a.json", '[1, "a"]', r"has no class names: must be a list of names, \{"),
        ("a.json", '{"a": "b", "c": "d"}', r"has no class names: must be a list of names, \{"),
        ("a.json", '{"1": "b", "2": "d"}', r"has no class names: outputs must be 0 to 1, each once"),
    ],
)
def test_a_file_that_names_no_classes_is_refused(name: str, text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"--classes .*{name}: {complaint}"):
        class_names([str(tmp_path / name)])


def test_numbers_count_in_the_natural_order() -> None:
    assert natural_order(["10", "2", "1"]) == ("1", "2", "10")
    assert natural_order(["Zebra", "cat10", "apple", "cat9"]) == ("apple", "cat9", "cat10", "Zebra")
    assert natural_order(["a²", "2a", "02a"]) == ("02a", "2a", "a²")
