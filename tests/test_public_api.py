"""What `import edgeoe` offers, and that it and --help cost nothing."""

import ast
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import edgeoe

MODULES = [module.name for module in pkgutil.walk_packages(edgeoe.__path__, "edgeoe.")]
HEAVY = {
    "lightning_fabric", "numpy", "onnx", "onnxruntime", "onnxscript", "PIL", "sklearn", "timm", "torch",
    "torch_pruning", "torchvision",
}  # fmt: skip


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=300)


@pytest.mark.parametrize("name", edgeoe.__all__)
def test_a_public_name_is_found_where_it_is_defined(name: str) -> None:
    value = getattr(edgeoe, name)
    assert value.__name__ == name
    assert getattr(import_module(value.__module__), name) is value


def test_type_checkers_see_the_same_public_names() -> None:
    tree = ast.parse(Path(edgeoe.__file__).read_text(encoding="utf-8"))
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = [alias.name for node in checking.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(seen) == sorted(edgeoe.__all__)


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgeoe' has no attribute 'compres'"):
        _ = edgeoe.compres


def test_edgeoe_has_modules() -> None:
    assert len(MODULES) > 40


@pytest.mark.parametrize("name", MODULES)
def test_all_that_a_module_offers_is_there(name: str) -> None:
    module = import_module(name)
    offered = getattr(module, "__all__", [])
    assert len(offered) == len(set(offered))
    assert [one for one in offered if not hasattr(module, one)] == []


def test_importing_edgeoe_loads_nothing_but_edgeoe() -> None:
    code = "import sys; before = set(sys.modules); import edgeoe; print(*(set(sys.modules) - before))"
    loaded = {name.split(".")[0] for name in run_python("-c", code).stdout.split()}
    assert loaded - sys.stdlib_module_names == {"edgeoe"}


@pytest.mark.parametrize("command", [[], ["compress"], ["targets"]])
def test_help_loads_no_heavy_package(command: list[str]) -> None:
    ran = run_python("-X", "importtime", "-m", "edgeoe", *command, "--help")
    loaded = {name.split(".")[0] for name in re.findall(r"\| +([\w.]+)$", ran.stderr, re.M)}
    assert "Usage" in ran.stdout
    assert {"edgeoe", "typer"} <= loaded
    assert loaded & HEAVY == set()
