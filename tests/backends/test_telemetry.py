"""Runtimes write nothing in a user's folders; what they write by themselves shows that these tests can fail."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeoe
from edgeoe.stages.modules import reachable_modules

RUN = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
{load}
print(*sorted(name for name in sys.modules if name.startswith("openvino_telemetry")))
"""
PLAIN = {"onnxruntime": "import onnxruntime", "openvino": "import openvino"}
OURS = {
    "onnxruntime": "from edgeoe.backends.telemetry import import_onnxruntime as load; load(); load()",
    "openvino": "from edgeoe.backends.telemetry import import_openvino as load; load(); load().Core()",
}


def files_after(program: str, folder: Path) -> tuple[set[str], str]:
    """What `program` writes below its home and temporary folders, and what it prints."""
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir()
    temporary.mkdir()
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if key in os.environ}
    environment = {**kept, "HOME": str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-B", "-c", program], env=environment, cwd=Path(edgeoe.__file__).parents[1],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return written, ran.stdout.strip()


@pytest.mark.parametrize("runtime", PLAIN)
def test_a_runtime_writes_nothing_when_edgeoe_imports_it(runtime: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    written, modules = files_after(RUN.format(load=OURS[runtime]), tmp_path)
    assert written == set()
    assert modules == ""


def test_onnxruntime_by_itself_writes_an_identifier_and_a_database(tmp_path: Path) -> None:
    """If this fails, a new version has changed its ways: see whether `backends/telemetry.py` still suits it."""
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32):
        pytest.skip("an older onnxruntime collects nothing on Linux")
    written, _ = files_after(RUN.format(load=PLAIN["onnxruntime"]), tmp_path)
    folder = "home/.cache/Microsoft/DeveloperTools/.onnxruntime"
    assert {f"{folder}/deviceid", f"{folder}/onnxruntime.db", "tmp/.ses"} <= written


def test_no_module_imports_them_by_itself() -> None:
    """Imports of submodules within a function come after `import_onnxruntime`, which `quantise` calls."""
    package = Path(edgeoe.__file__).parent
    direct = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.partition(".")[0] in PLAIN for name in names):
                direct.add(path.relative_to(package).as_posix())
    assert direct == {"backends/onnxruntime.py", "graph/quantize.py"}  # the former for type checkers alone


@pytest.mark.parametrize("runtime", PLAIN)
def test_a_bundle_imports_them_in_the_same_way(runtime: str) -> None:
    modules = reachable_modules(("edgeoe.devices.bundle_runner", f"edgeoe.backends.{runtime}"))
    assert "edgeoe.backends.telemetry" in modules
