"""The user's own files are imported apart from everything else, and find each other as Python would."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeoe.models.own_modules import OwnModules

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(**{"a/b.py": source})`: these files, and the first one's path."""

    def files(**sources: str) -> Path:
        for name, source in sources.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return tmp_path / next(iter(sources))

    return files


def load(file: Path) -> ModuleType:
    modules = OwnModules(file)
    with modules.importable():
        return modules.load()


FORMS = {
    "import": "import user_parts as parts",
    "from": "from user_parts import VALUE\nclass parts: VALUE = VALUE",
    "relative": "from . import user_parts as parts",
    "relative name": "from .user_parts import VALUE\nclass parts: VALUE = VALUE",
    "importlib": "import importlib\nparts = importlib.import_module('user_parts')",
    "importlib, relative": "import importlib\nparts = importlib.import_module('.user_parts', __package__)",
    "__import__": "parts = __import__('user_parts')",
    "caught": "try:\n    import user_parts as parts\nexcept ImportError:\n    parts = None",
    "star": "from user_parts import *\nclass parts: VALUE = VALUE",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_neighbour_is_found(form: str, write: Write) -> None:
    module = load(write(**{"net.py": FORMS[form], "user_parts.py": "VALUE = 3"}))
    assert module.parts.VALUE == 3
    assert "user_parts" not in sys.modules


def test_packages_and_their_parts_are_found(write: Write) -> None:
    file = write(
        **{
            "net.py": "import parts.deep.block\nfrom parts import top\nimport parts.deep.other as other\n"
            "value = (parts.deep.block.VALUE, top.VALUE, other.VALUE, parts.NAME)",
            "parts/__init__.py": "NAME = __name__.rpartition('.')[2]",
            "parts/top.py": "from .deep.block import VALUE",
            "parts/deep/block.py": "VALUE = 5",  # a folder without __init__.py is a package, too
            "parts/deep/other.py": "from parts.deep import block\nfrom ..top import VALUE",
        }
    )
    assert load(file).value == (5, 5, 5, "parts")


def test_a_file_in_a_package_has_the_package_above_it(write: Write) -> None:
    file = write(
        **{
            "project/models/nets/net.py": "from ..layers import WIDTH\nfrom models.layers import WIDTH as same\n"
            "from models import NAME\nimport settings",
            "project/models/nets/__init__.py": "",
            "project/models/__init__.py": "NAME = 'models'",
            "project/models/layers.py": "WIDTH = 8",
            "project/settings.py": "",
            "settings.py": "raise RuntimeError('not this one')",
        }
    )
    module = load(file)
    assert (module.WIDTH, module.same, module.NAME) == (8, 8, "models")


def test_a_package_imports_its_own_file_once(write: Write) -> None:
    file = write(
        **{
            "pkg/net.py": "class Net: pass\nfrom . import other",
            "pkg/__init__.py": "from .net import Net",
            "pkg/other.py": "",
        }
    )
    modules = OwnModules(file)
    net: Any = modules.load()
    assert sys.modules[net.__package__].Net is net.Net
    assert [path.name for path in modules.loaded] == ["__init__.py", "net.py", "other.py"]


def test_a_circle_of_imports_is_as_in_python(write: Write) -> None:
    file = write(
        **{
            "net.py": "VALUE = 1\nimport parts\nvalue = parts.value()",
            "parts.py": "import net\ndef value():\n    return net.VALUE",
        }
    )
    assert load(file).value == 1


def test_two_teachers_have_each_their_own_neighbours(write: Write) -> None:
    code = "import utils\ndef late():\n    import more\n    return more.VALUE"
    one = load(write(**{"one/net.py": code, "one/utils.py": "VALUE = 1", "one/more.py": "VALUE = 10"}))
    two = load(write(**{"two/net.py": code, "two/utils.py": "VALUE = 2", "two/more.py": "VALUE = 20"}))
    assert (one.utils.VALUE, two.utils.VALUE) == (1, 2)
    assert (two.late(), one.late()) == (20, 10), "also when a function imports them later"
    assert not {"utils", "more", "net"} & sys.modules.keys()


def test_a_neighbour_with_a_known_name_is_met_by_its_neighbours_alone(write: Write) -> None:
    """As Python does it, they see the neighbour and not the standard library; everybody else does not."""
    file = write(
        **{
            "net.py": "import json, profile, cProfile, os, sys, torch\nvalue = (json.VALUE, profile.VALUE)",
            "json.py": "VALUE = 1",
            "profile.py": "VALUE = 2",
            "torch.py": "raise RuntimeError('a teacher is made of the real one')",
            "os.py": "raise RuntimeError('built into Python')",
        }
    )
    sys.modules.pop("cProfile", None)
    module = load(file)
    assert module.value == (1, 2)
    assert module.cProfile.Profile, "which imports profile itself"
    assert importlib.import_module("json") is json


def test_a_file_may_be_called_as_what_it_imports(write: Write) -> None:
    assert load(write(**{"torch.py": "import torch\nvalue = torch.__name__"})).value == "torch"


def test_a_file_may_have_any_name(write: Write) -> None:
    assert load(write(**{"my-net.v2.py": "import parts\nvalue = parts.VALUE", "parts.py": "VALUE = 1"})).value == 1


def test_a_module_finds_itself_by_its_name(write: Write) -> None:
    code = (
        "import dataclasses, sys\n@dataclasses.dataclass\nclass A:\n    a: 'int'\nvalue = sys.modules[__name__].A is A"
    )
    assert load(write(**{"net.py": "from parts import value", "parts.py": code})).value


def test_a_folder_is_no_reason_to_miss_what_is_installed(write: Write) -> None:
    file = write(**{"net.py": "import onnx\nvalue = onnx.__version__", "onnx/convert.py": "", "data/x.txt": ""})
    assert load(file).value


def test_a_compiled_file_is_neither_read_nor_written(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import py_compile

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = write(**{"net.py": "import parts\nvalue = parts.VALUE", "parts.py": "VALUE = 2"})
    parts = file.with_name("parts.py")
    when = parts.stat().st_mtime_ns
    py_compile.compile(str(parts), doraise=True)
    parts.write_text("VALUE = 3")
    os.utime(parts, ns=(when, when))
    compiled = {path: path.stat().st_mtime_ns for path in file.parent.rglob("*.pyc")}
    assert load(file).value == 3
    assert {path: path.stat().st_mtime_ns for path in file.parent.rglob("*.pyc")} == compiled


# Where neighbours lie


def test_a_project_is_found_from_the_folder_that_one_works_in(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(**{"project/models/net.py": "from models.layers import WIDTH\nfrom helpers.misc import x",
                    "project/models/layers.py": "WIDTH = 8", "project/helpers/misc.py": "x = 1"})  # fmt: skip
    with pytest.raises(ModuleNotFoundError, match="models"):
        load(file)
    monkeypatch.chdir(file.parents[1])
    assert load(file).WIDTH == 8


def test_a_project_is_found_on_the_search_path(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        **{"project/models/net.py": "from models.layers import WIDTH", "project/models/layers.py": "WIDTH = 8"}
    )
    monkeypatch.syspath_prepend(str(file.parents[1]))
    modules = OwnModules(file)
    assert modules.load().WIDTH == 8
    assert modules.loaded[-1].name == "layers.py"


def test_what_the_code_adds_to_the_search_path_is_its_own(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    file = write(
        **{
            "project/models/net.py": "import os, sys\n"
            "sys.path.append(os.path.join(os.path.dirname(__file__), '..', 'lib'))\nfrom helpers import x",
            "project/lib/helpers.py": "x = 1",
        }
    )
    modules = OwnModules(file)
    assert modules.load().x == 1
    assert [path.name for path in modules.loaded] == ["net.py", "helpers.py"]
    assert "helpers" not in sys.modules


def test_it_stays_its_own_when_the_search_path_is_as_before(write: Write) -> None:
    file = write(
        **{
            "models/net.py": "import sys\nfrom pathlib import Path\n"
            "sys.path.append(str(Path(__file__).parents[1] / 'lib'))\n"
            "def late():\n    import helpers\n    return helpers.x",
            "lib/helpers.py": "x = 1",
        }
    )
    code, before = OwnModules(file), sys.path.copy()
    with code.importable():
        module = code.load()
    sys.path[:] = before
    assert module.late() == 1


def test_an_installed_package_is_not_the_teachers(write: Write) -> None:
    import safetensors

    modules = OwnModules(write(**{"net.py": "import safetensors"}))
    assert modules.load().safetensors is safetensors
    assert [path.name for path in modules.loaded] == ["net.py"]


@pytest.mark.parametrize("name", ["user_parts_gone", "user_parts_gone.deep", "parts.gone"])
def test_what_is_nowhere_is_missed_under_its_own_name(name: str, write: Write) -> None:
    file = write(**{"net.py": f"import {name}", "parts/__init__.py": ""})
    modules = OwnModules(file)
    with pytest.raises(ModuleNotFoundError) as missed:
        modules.load()
    assert modules.without_prefix(str(missed.value)).startswith(f"No module named '{name.partition('.deep')[0]}'")


# Copies


def test_of_a_copy_only_the_listed_files_are_there(write: Write) -> None:
    file = write(**{"net.py": "import parts\ntry:\n    import more\nexcept ImportError:\n    more = None",
                    "parts.py": "VALUE = 1", "more.py": "", "more/__init__.py": ""})  # fmt: skip
    modules = OwnModules(file, folders=[file.parent], files=[file, file.with_name("parts.py")])
    assert modules.load().more is None
