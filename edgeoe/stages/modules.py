"""Static analysis of imports: the modules of its own packages that a program needs."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from edgeoe.errors import ConfigError

__all__ = ["reachable_modules", "source"]


def source(module: str) -> Path:
    """The source file of `module`. Raises ConfigError if it is not Python source."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(f"{module} can't be bundled: it is not a module of Python source.")
    return Path(spec.origin)


def reachable_modules(roots: Iterable[str]) -> list[str]:
    """`roots` and all modules of their top-level packages that they import, directly or not, sorted.

    Imports under TYPE_CHECKING are ignored.
    """
    remaining, modules = list(roots), set[str]()
    packages = {root.partition(".")[0] for root in remaining}
    while remaining:
        module = remaining.pop()
        if module in modules:
            continue
        modules.add(module)
        remaining += [module.rpartition(".")[0]] if "." in module else []
        path = source(module)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        remaining += [name for name in _imports(tree, package) if _is_of(name, packages)]
    return sorted(modules)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that `tree`, a module of `package`, imports; for `from x import y`, both x and x.y."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name(f"{'.' * node.level}{node.module or ''}", package)
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))
        yield from _imports(node, package)


def _is_of(name: str, packages: Collection[str]) -> bool:
    """Whether `name` is a module of one of these top-level packages, and not another name in a module."""
    if name.partition(".")[0] not in packages:
        return False
    parent = name.rpartition(".")[0]
    if parent:
        spec = importlib.util.find_spec(parent) if _is_of(parent, packages) else None
        if spec is None or spec.submodule_search_locations is None:  # no package: `name` is a function, a class, ...
            return False
    return importlib.util.find_spec(name) is not None
