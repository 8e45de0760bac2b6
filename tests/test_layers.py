"""Imports point down."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import edgeoe

PACKAGE = Path(edgeoe.__file__).parent

# From the top: what stands in a row imports only from the rows below it, and from its own package.
# Neighbours in a row know nothing of each other.
LAYERS = """
    __init__  __main__
    cli       api
    report    demo      doctor
    pipeline
    stages
    devices
    training  graph     measure
    methods   balance   backends
    models
    pruning   run
    data
    records   config
    settings  targets
    toml_document       class_names         method    conversions
    registry  machine
    vouching
    errors    progress  files     versions  import_path
    arguments interruption        shares    codec     bounds    lock    system_errors         text
"""
ROWS = [row.split() for row in reversed(LAYERS.strip().splitlines())]
HEIGHT = {part: height for height, row in enumerate(ROWS) for part in row}


def part_of(path: Path) -> str:
    """The part of edgeoe that a file belongs to: its folder, or its own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(source: str) -> Iterator[str]:
    """The parts of edgeoe that `source` imports anywhere: inside functions and for type checkers, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name + ".__init__").split(".")[1] for alias in node.names if is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "edgeoe imports by full names"
            if node.module == "edgeoe":  # a part, a name of the public API, or the version, which lies at the bottom
                names = {alias.name for alias in node.names} - {"__version__"}
                yield from (name if name in HEIGHT else "__init__" for name in names)
            elif node.module and is_ours(node.module):
                yield node.module.split(".")[1]


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "edgeoe"


def pointing_up(part: str, source: str) -> list[str]:
    """The parts that `source`, a module of `part`, must not import and does."""
    return [other for other in imported_parts(source) if other != part and HEIGHT[other] >= HEIGHT[part]]


def test_every_part_of_edgeoe_stands_in_one_row() -> None:
    listed = [part for row in ROWS for part in row]
    assert sorted(listed) == sorted({part_of(path) for path in PACKAGE.rglob("*.py")})


def test_imports_point_down() -> None:
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert len(modules) > 40
    up = {name: pointing_up(part_of(path), path.read_text(encoding="utf-8")) for name, path in modules.items()}
    assert {name: parts for name, parts in up.items() if parts} == {}


def imported_modules(path: Path) -> set[str]:
    """Everything that a file imports anywhere, by full name: modules, and names that may be modules."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def circles(graph: dict[str, set[str]]) -> None:
    """Raise CycleError if modules import each other in a circle. graph: {module: modules that it imports}."""
    TopologicalSorter({module: imports & graph.keys() for module, imports in graph.items()}).prepare()


def test_modules_of_pruning_import_each_other_in_no_circle() -> None:
    graph = {f"edgeoe.pruning.{path.stem}": imported_modules(path) for path in (PACKAGE / "pruning").glob("*.py")}
    assert len(graph) > 10
    circles(graph)
    with pytest.raises(CycleError):
        circles({**graph, "edgeoe.pruning.slots": {"edgeoe.pruning.prune"}})


def test_pruning_is_a_library_that_needs_torch_errors_and_progress_alone() -> None:
    allowed = {"edgeoe.pruning", "edgeoe.errors", "edgeoe.progress"}
    packages = {"torch", "numpy", "scipy", *sys.stdlib_module_names}
    for path in (PACKAGE / "pruning").glob("*.py"):
        for module in imported_modules(path):
            top, *below = module.split(".")
            assert ".".join([top, *below[:1]]) in allowed if top == "edgeoe" else top in packages, (path.name, module)


@pytest.mark.parametrize(
    ("part", "source", "up"),
    [
        ("methods", "from edgeoe.balance.losses import joint_loss", ["balance"]),
        ("data", "def f():\n    import edgeoe.training.workbench", ["training"]),
        ("data", "if TYPE_CHECKING:\n    from edgeoe import pipeline", ["pipeline"]),
        ("stages", "from edgeoe import compress", ["__init__"]),
        ("stages", "import edgeoe", ["__init__"]),
        ("stages", "from edgeoe import __version__, errors", []),
        ("stages", "from edgeoe.stages.build import build", []),
        ("stages", "import numpy, torch.nn\nfrom pathlib import Path", []),
    ],
)
def test_the_check_sees_every_way_to_import(part: str, source: str, up: list[str]) -> None:
    assert pointing_up(part, source) == up


def test_no_file_is_longer_than_400_lines() -> None:
    tools = PACKAGE.parent / "tools"
    files = [*PACKAGE.rglob("*.py"), *tools.glob("*.py")]
    assert len(files) > 150
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
