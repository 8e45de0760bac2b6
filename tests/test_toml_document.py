"""Complaints about a TOML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tomli_w
from annotated_types import Ge
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from edgeoe.errors import ConfigError, TargetError
from edgeoe.toml_document import TomlDocument

TEXT = """\
# key = "in a comment"
key = 1
"quoted key" = 2
inline = { deep = 3 }
dotted.deep = 4

[ table ]
other = 5
  key= 6

[table.sub]
key = 7

[["list"]]
key = 8
"""
KEYS = st.text("abcdefgh_-", min_size=1)
TABLES = st.dictionaries(KEYS, st.dictionaries(KEYS, st.integers(), min_size=1), max_size=5)


@dataclass(frozen=True)
class Shape:
    size: tuple[int, int]
    share: Annotated[float, Ge(0)] = 0.5
    name: str = ""


def document(folder: Path, text: str) -> TomlDocument:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return TomlDocument(path, error=ConfigError)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@pytest.mark.parametrize(
    ("table", "key", "line"),
    [
        ("", "key", 2),
        ("", "quoted key", 3),
        ("", "inline", 4),
        ("inline", "deep", 4),
        ("", "dotted", 5),
        ("dotted", "deep", 5),
        ("", "table", 7),
        ("table", "other", 8),
        ("table", "key", 9),
        ("table", "absent", 7),
        ("table", "sub", 11),
        ("table.sub", "key", 12),
        ("", "list", 14),
        ("", "absent", 1),
    ],
)
def test_a_key_is_found_in_its_own_table(folder: Path, table: str, key: str, line: int) -> None:
    assert document(folder, TEXT).line(table, key) == line


@examples(deadline=None)
@given(data=st.data(), tables=TABLES.filter(len))
def test_the_line_of_a_key_holds_that_key_below_its_table(
    folder: Path, data: st.DataObject, tables: dict[str, dict[str, int]]
) -> None:
    table = data.draw(st.sampled_from(sorted(tables)))
    key = data.draw(st.sampled_from(sorted(tables[table])))
    made = document(folder, tomli_w.dumps(tables))
    line = made.line(table, key)
    above = made.text.splitlines()[: line - 1]
    assert made.text.splitlines()[line - 1] == f"{key} = {tables[table][key]}"
    assert [text for text in above if text.startswith("[")][-1] == f"[{table}]"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: no such file\.$"):
        TomlDocument(tmp_path / "absent.toml", error=ConfigError)


@pytest.mark.parametrize("kind", [ConfigError, TargetError])
def test_the_error_is_of_the_class_asked_for(tmp_path: Path, kind: type[ConfigError | TargetError]) -> None:
    with pytest.raises(kind) as raised:
        TomlDocument(tmp_path / "absent.toml", error=kind)
    assert raised.type is kind


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read as text"):
        TomlDocument(tmp_path, error=ConfigError)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml: can't be read as text: 'utf-8'"):
        TomlDocument(path, error=ConfigError)


def test_text_that_is_no_toml_is_refused_with_its_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"some\.toml: not valid TOML: .* \(at line 2, "):
        document(folder, "a = 1\nb = = 2\n")


def test_an_unknown_key_is_answered_with_file_line_and_neighbour(folder: Path) -> None:
    made = document(folder, TEXT)
    with pytest.raises(ConfigError, match=r"some\.toml:8: unknown key 'other' in \[table\]\. Did you mean 'others'\?$"):
        made.refuse_unknown("table", made.table("table"), ["key", "others"])
    with pytest.raises(ConfigError, match=r"some\.toml:3: unknown key 'quoted key' in the top level\. Known: table, z"):
        made.refuse_unknown("", ["quoted key"], ["z", "table"])


def test_known_keys_pass(folder: Path) -> None:
    made = document(folder, TEXT)
    made.refuse_unknown("table", made.table("table"), ["key", "other", "sub", "more"])


def test_an_absent_table_is_empty(folder: Path) -> None:
    assert document(folder, TEXT).table("absent") == {}


@pytest.mark.parametrize(("name", "line"), [("key", 2), ("list", 14)])
def test_what_is_no_table_is_refused(folder: Path, name: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"some\.toml:{line}: {name} must be a table: write it as \[{name}\]\.$"):
        document(folder, TEXT).table(name)


def test_a_table_becomes_a_record(folder: Path) -> None:
    made = document(folder, "[shape]\nsize = [2, 3]\nshare = 1\n")
    assert made.record("shape", Shape) == Shape(size=(2, 3), share=1.0)


def test_a_record_may_be_read_from_other_values(folder: Path) -> None:
    made = document(folder, "size = [2, 3]\nelse = 1\n")
    assert made.record("", Shape, {"size": made.tables["size"], "name": "n"}) == Shape(size=(2, 3), name="n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("share = 1", "some.toml:2: size: field required."),
        ("share = 1\nsize = [2]", "some.toml:4: size: field required. Got [2]."),
        ("size = [2, 3.5]", "some.toml:3: size: input should be a valid integer. Got [2, 3.5]."),
        ("size = [2, 3]\nshare = -1", "some.toml:4: share: input should be greater than or equal to 0. Got -1."),
        ("size = [2, 3]\nshare = '1'", "some.toml:4: share: input should be a valid number. Got '1'."),
        ("size = [2, 3]\nname = 1", "some.toml:4: name: input should be a valid string. Got 1."),
        ("size = [2, 3]\nnam = 'x'", "some.toml:4: unknown key 'nam' in [shape]. Did you mean 'name'?"),
    ],
)
def test_a_record_complains_by_file_line_and_key(folder: Path, text: str, message: str) -> None:
    made = document(folder, f"\n[shape]\n{text}\n")
    with pytest.raises(ConfigError) as raised:
        made.record("shape", Shape)
    assert str(raised.value).startswith(str(folder))
    assert str(raised.value).endswith(message)
