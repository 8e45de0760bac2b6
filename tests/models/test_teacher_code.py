"""Which files a teacher is built from: those imported, and those read meanwhile."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeoe.errors import TeacherError
from edgeoe.models.teacher_code import TeacherCode
from edgeoe.records.student import CodeFiles

READS = "from pathlib import Path\nimport os\nHERE = Path(__file__).parent\ndef network():\n    "


def written(folder: Path, body: str, **files: str) -> TeacherCode:
    """A factory with `body`, and files beside it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "net.py").write_text(READS + body)
    return TeacherCode(folder / "net.py")


def run(code: TeacherCode) -> None:
    with code.running():
        factory = code.factory("network")
        assert factory is not None
        factory()


def names(code: TeacherCode) -> set[str]:
    return set(code.root_and_files()[1].files)


@pytest.mark.parametrize(
    "body",
    [
        "with open(HERE / 'net.yaml'): pass",
        "(HERE / 'net.yaml').read_text()",
        "os.close(os.open(HERE / 'net.yaml', os.O_RDONLY))",
        "with open(os.path.join(os.path.dirname(__file__), 'net.yaml'), 'rb'): pass",
        "import json, io\n    with io.open(str(HERE / 'net.yaml')) as file: json.load(file)",
        "with open(os.fsencode(HERE / 'net.yaml')): pass",
    ],
)
def test_a_file_that_the_factory_reads_is_one_of_its_own(body: str, tmp_path: Path) -> None:
    code = written(tmp_path, body, **{"net.yaml": "{}", "other.yaml": ""})
    run(code)
    assert names(code) == {"net.py", "net.yaml"}


def test_a_file_that_the_module_reads_is_one_of_its_own(tmp_path: Path) -> None:
    code = written(tmp_path, "pass\n(HERE / 'sub' / 'net.yaml').read_text()", **{"sub/net.yaml": ""})
    run(code)
    assert names(code) == {"net.py", "sub/net.yaml"}


def test_a_link_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("{}")
    (tmp_path / "own").mkdir()
    code = written(tmp_path / "own", "(HERE / 'net.yaml').read_text()")
    (tmp_path / "own" / "net.yaml").symlink_to(tmp_path / "store")
    run(code)
    assert names(code) == {"net.py", "net.yaml"}


@pytest.mark.parametrize(
    "body",
    [
        "open(HERE / 'made.txt', 'w').close()",
        "open(HERE / 'net.log', 'a').close()",
        "(HERE.parent / 'outside.txt').read_text()",
        "(HERE / '.git' / 'config').read_text()",
        "import torch; Path(torch.__file__).read_text()",
        "try:\n        open(HERE / 'gone.txt')\n    except OSError: pass",
    ],
    ids=["written", "appended", "outside", "hidden", "installed", "missing"],
)
def test_other_files_are_not_its_own(body: str, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("")
    code = written(tmp_path / "own", body, **{".git/config": "", "net.log": ""})
    run(code)
    assert names(code) == {"net.py"}


def test_what_is_read_when_the_code_does_not_run_is_not_its_own(tmp_path: Path) -> None:
    code = written(tmp_path, "pass", **{"later.txt": ""})
    run(code)
    (tmp_path / "later.txt").read_text()
    assert names(code) == {"net.py"}


def test_files_keep_their_places_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = "from lib.parts import VALUE\n    (HERE / '..' / 'configs' / 'net.yaml').read_text()"
    code = written(tmp_path / "models", body, **{"../lib/parts.py": "VALUE = 1", "../configs/net.yaml": ""})
    run(code)
    assert code.root_and_files() == (
        tmp_path,
        CodeFiles("models/net.py", ("models", "."), ("models/net.py", "lib/parts.py", "configs/net.yaml")),
    )


def test_too_large_a_file_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.models.teacher_code._MOST_BYTES", 2**20)
    code = written(tmp_path, "(HERE / 'best.pt').read_text()")
    with (tmp_path / "best.pt").open("wb") as stream:
        stream.truncate(3 * 2**20)
    run(code)
    said = (
        r"net\.py: building it reads .*/best\.pt \(3 MiB\), and a run takes at most 1 MiB along\..*--weights .*best\.pt"
    )
    with pytest.raises(TeacherError, match=said):
        code.root_and_files()


def test_what_the_code_does_to_the_search_path_ends_with_it(tmp_path: Path) -> None:
    before = sys.path.copy()
    run(written(tmp_path, "import sys; sys.path.insert(0, str(HERE))"))
    assert sys.path == before


def copied(code: TeacherCode, folder: Path) -> TeacherCode:
    root, only = code.root_and_files()
    for name in only.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((root / name).read_bytes())
    return TeacherCode.of_copy(folder, only)


LAYOUTS: dict[str, Callable[[Path], TeacherCode]] = {
    "neighbours": lambda folder: written(folder, "import parts; assert parts.VALUE", **{"parts.py": "VALUE = 1"}),
    "a package": lambda folder: written(
        folder / "pkg", "from .parts import VALUE", **{"parts.py": "VALUE = 1", "__init__.py": ""}
    ),
    "a script in a package": lambda folder: written(
        folder / "pkg", "from parts import VALUE", **{"parts.py": "VALUE = 1", "__init__.py": ""}
    ),
    "a sibling folder": lambda folder: written(
        folder / "models",
        "import sys; sys.path.append(os.path.join(os.path.dirname(__file__), '..')); from lib.parts import VALUE",
        **{"../lib/parts.py": "VALUE = 1"},
    ),
    "data": lambda folder: written(folder, "assert (HERE / 'sub' / 'x').read_text() == '1'", **{"sub/x": "1"}),
    "by name": lambda folder: written(
        folder, "import importlib; importlib.import_module('parts.one').VALUE", **{"parts/one.py": "VALUE = 1"}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_stands_alone(layout: str, tmp_path: Path) -> None:
    code = LAYOUTS[layout](tmp_path / "mine")
    run(code)
    copy = copied(code, tmp_path / "copy")
    os.rename(tmp_path / "mine", tmp_path / "gone")  # noqa: PTH104
    run(copy)
