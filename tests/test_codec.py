"""JSON data -> records, strictly."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Lt
from hypothesis import given
from hypothesis import strategies as st
from made_up import speed

from edgeoe.codec import from_json, json_from, read_json_object, to_json
from edgeoe.records.result import SpeedSamples
from edgeoe.targets.load import find_targets, load_target
from edgeoe.targets.profile import Target


@dataclass(frozen=True)
class Inner:
    n: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True)
class Outer:
    text: str
    number: Annotated[float, Lt(10)]
    pair: tuple[int, int]
    many: tuple[Inner, ...]
    rates: dict[int, float]
    word: Literal["a", "b"] = "a"
    path: Path | None = None
    free: Any = None


GOOD = {"text": "t", "number": 1, "pair": [1, 2], "many": [{"n": 2}, {}], "rates": {"8": 2.5}}


def test_a_record_is_decoded_with_its_parts() -> None:
    made = from_json(Outer, {**GOOD, "word": "b", "path": "x/y", "free": [1, {}]})
    assert made == Outer("t", 1.0, (1, 2), (Inner(2), Inner()), {8: 2.5}, "b", Path("x/y"), [1, {}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 3}, "Outer.text: expected text. Got 3"),
        ({"text": None}, "Outer.text: expected text. Got null"),
        ({"number": True}, "Outer.number: expected a number. Got true"),
        ({"number": float("nan")}, "Outer.number: expected a finite number. Got NaN"),
        ({"number": 10}, "Outer.number: expected less than 10. Got 10.0"),
        ({"pair": [1]}, "Outer.pair: expected 2 values. Got [1]"),
        ({"pair": [1, 2.0]}, "Outer.pair[1]: expected a whole number. Got 2.0"),
        ({"many": {}}, "Outer.many: expected a list. Got {}"),
        ({"many": [{"n": 0}]}, "Outer.many[0].n: expected at least 1. Got 0"),
        ({"many": [{"m": 0}]}, "Outer.many[0]: unknown key 'm'"),
        ({"many": [[]]}, "Outer.many[0]: expected an object. Got []"),
        ({"rates": {"x": 1.0}}, 'Outer.rates: expected a whole number as key. Got "x"'),
        ({"rates": {"1_0": 1.0}}, 'Outer.rates: expected a whole number as key. Got "1_0"'),
        ({"rates": {"01": 1.0}}, 'Outer.rates: expected a whole number as key. Got "01"'),
        ({"rates": {"\u0661": 1.0}}, 'Outer.rates: expected a whole number as key. Got "\\u0661"'),
        ({"number": 10**400}, "Outer.number: expected a number. Got a number of more than 64 bits"),
        ({"number": -1e101}, "Outer.number: expected 0, or a number from 1e-100 to 1e+100. Got -1e+101"),
        ({"number": 1e-320}, "Outer.number: expected 0, or a number from 1e-100 to 1e+100. Got 1e-320"),
        ({"number": float("inf")}, "Outer.number: expected a finite number. Got Infinity"),
        ({"pair": [1, 2**63]}, "Outer.pair[1]: expected a whole number of 64 bits. Got a number of more than 64 bits"),
        ({"rates": []}, "Outer.rates: expected an object. Got []"),
        ({"word": "c"}, "Outer.word: expected 'a' or 'b'. Got \"c\""),
        ({"word": []}, "Outer.word: expected 'a' or 'b'. Got []"),
        ({"path": 1}, "Outer.path: expected a path. Got 1"),
        ({"more": 1}, "Outer: unknown key 'more'"),
    ],
)
def test_whatever_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        from_json(Outer, {**GOOD, **change})
    assert str(refused.value) == message


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"^Outer: missing key '{key}'$"):
        from_json(Outer, {name: value for name, value in GOOD.items() if name != key})


@pytest.mark.parametrize("name", find_targets())
def test_profiles_travel(name: str) -> None:
    target = load_target(name)
    assert from_json(Target, json.loads(json.dumps(to_json(target)))) == target


def test_what_was_measured_travels() -> None:
    assert from_json(SpeedSamples, json.loads(json.dumps(to_json(speed())))) == speed()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is no number in JSON"),
        ('{"a": -Infinity}', "-Infinity is no number in JSON"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": 9223372036854775808}', "the number 9223372036854775808 has more than 64 bits"),
        (f'{{"a": {"9" * 5000}}}', f"the number {'9' * 37}... has more than 64 bits"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', 'the key "b" stands there twice'),
        (f'{{"a": {"[" * 64}{"]" * 64}}}', "too deeply nested"),
        (f'{{"a": {"[" * 100_000}', "too deeply nested"),
        (r'{"a": "\ud800"}', "surrogates not allowed"),
        (r'{"\ud800": 1}', "surrogates not allowed"),
    ],
)
def test_json_is_that_of_the_standard(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_json_object(tmp_path / "a.json")


@given(
    data=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
        max_leaves=10,
    )
)
def test_ordinary_json_is_parsed_as_ever(data: Any) -> None:
    assert json_from(json.dumps(data)) == data


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(2**26 + 1)
    with pytest.raises(ValueError, match="64 MiB; at most 64 MiB are read"):
        read_json_object(tmp_path / "a.json")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff\xfe{", b"[" * 100_000, b'{"a": 1}x'])
def test_what_is_no_object_is_a_value_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"."):
        read_json_object(tmp_path / "a.json")
