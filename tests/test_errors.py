"""The exception tree."""

import ast
import errno
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeoe import errors
from edgeoe.errors import BackendError, EdgeoeError, OutOfMemoryError, is_out_of_memory, pass_on_out_of_memory, quoted


def test_the_docstring_draws_the_tree_of_classes() -> None:
    (root,) = re.findall(r"^(\w+Error) ", errors.__doc__ or "", re.M)
    branches = re.findall(r"^[├└]── (\w+Error) ", errors.__doc__ or "", re.M)
    twigs = re.findall(r"^[├└]── (\w+Error) [^\n]*\n│   └── (\w+Error) ", errors.__doc__ or "", re.M)
    assert root == "EdgeoeError"
    assert twigs == [
        (kind.__name__, below.__name__)
        for kind in EdgeoeError.__subclasses__()
        for below in kind.__subclasses__()
        if below.__module__ == errors.__name__
    ]
    assert branches == [kind.__name__ for kind in EdgeoeError.__subclasses__() if kind.__module__ == errors.__name__]
    assert sorted([root, *branches, *(below for _, below in twigs)]) == sorted(
        name for name in errors.__all__ if name[0].isupper()
    )


def test_no_error_stands_outside_the_tree() -> None:
    kinds = [value for value in vars(errors).values() if getattr(value, "__module__", "") == errors.__name__]
    kinds = [value for value in kinds if isinstance(value, type)]
    assert len(kinds) > 1
    assert all(issubclass(kind, EdgeoeError) for kind in kinds)


def test_an_error_reads_as_its_message() -> None:
    assert str(EdgeoeError("a.toml:3: what and how")) == "a.toml:3: what and how"


def raised_from(reason: Exception) -> Exception:
    """Another package's error whose cause is `reason`."""
    try:
        raise ValueError("the exporter gave up") from reason
    except ValueError as outer:
        return outer


class TorchLikeError(RuntimeError):
    """Stands for torch.OutOfMemoryError, which a machine without a GPU never raises."""


TorchLikeError.__name__ = "OutOfMemoryError"


@pytest.mark.parametrize(
    "reason",
    [
        MemoryError(),
        TorchLikeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("Failed to allocate memory for requested buffer of size 4096"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        raised_from(MemoryError()),
        OutOfMemoryError("all gone"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=lambda reason: f"{type(reason).__name__}-{reason}"[:40],
)
def test_memory_that_ran_out_is_known_by_any_name(reason: Exception) -> None:
    assert is_out_of_memory(reason)
    with pytest.raises(OutOfMemoryError):
        pass_on_out_of_memory(reason)


def test_torch_and_numpy_say_it_in_a_way_that_is_known() -> None:
    import torch

    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**60, np.uint8)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)


@pytest.mark.parametrize(
    "reason",
    [
        RuntimeError("shapes do not match"),
        OSError(errno.ENOSPC, "No space left on device"),
        ModuleNotFoundError("no module 'bad_alloc'"),
        BackendError("out of memory.onnx: no such file."),
    ],
)
def test_nothing_else_is_taken_for_it(reason: Exception) -> None:
    assert not is_out_of_memory(reason)
    pass_on_out_of_memory(reason)


@pytest.mark.parametrize("name", ["runs/a", "my run", "it's", "a;rm -rf b", "$HOME", "-x", "ä"])
def test_a_quoted_word_is_one_word_for_a_shell(name: str) -> None:
    assert shlex.split(f"edgeoe export {quoted(name)}") == ["edgeoe", "export", name]


def renaming(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    """The handlers that catch whatever other packages may raise, out of memory among it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            names = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            if names & {"Exception", "RuntimeError"}:
                yield node


def test_whoever_renames_any_exception_passes_on_that_memory_ran_out() -> None:
    package = Path(errors.__file__).parent
    apart = {
        "cli",
        "files.py",
        "compress.py",
        "conversions.py",
        "unpacked.py",
        "workbench.py",
    }  # which rename none, or know it by themselves
    files = [path for path in package.rglob("*.py") if not apart & {*path.parts[-2:]}]
    handlers = [(path.name, one) for path in files for one in renaming(ast.parse(path.read_text(encoding="utf-8")))]
    assert len(handlers) > 10
    firsts = {(name, one.lineno): ast.unparse(one.body[0]) for name, one in handlers}
    assert {where: first for where, first in firsts.items() if first != "pass_on_out_of_memory(reason)"} == {}
