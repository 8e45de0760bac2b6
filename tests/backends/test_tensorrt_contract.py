"""Every name of TensorRT that edgeoe uses exists in the real bindings of 10.3, 10.13 and 11.4.

The bindings come from PyPI, on stub libraries (tools/tensorrt_api.py); what is used is read from the sources
(tensorrt_usage.py). This shows that the calls exist, not what they do.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from backends.tensorrt_usage import Api, Use, complaints, read_uses

import edgeoe
from edgeoe.targets.profile import EngineSettings

PACKAGE, HERE = Path(edgeoe.__file__).parent, Path(__file__).parent
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "bindings()" in path.read_text(encoding="utf-8"))
# Attributes of our own objects, and numpy's, that happen to be called as something of TensorRT's is.
OURS = {
    "allocate", "append", "clear", "data", "dtype", "engine", "finish", "flags", "itemsize", "name", "pop", "shape",
    "start", "step",
}  # fmt: skip


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("tensorrt_api", PACKAGE.parent / "tools" / "tensorrt_api.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


TOOL = _tool()


@pytest.fixture(scope="session", params=TOOL.VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def api(version: str) -> Api:
    """The API of one version. Skips where it can't be had."""
    try:
        found: Api = TOOL.describe(version)
    except TOOL.UnavailableError as reason:
        pytest.skip(f"TensorRT {version}: {reason}")
    return found


def used(api: Api) -> list[Use]:
    assert {path.name for path in SOURCES} >= {"tensorrt_bindings.py", "tensorrt_engine.py", "tensorrt.py"}
    return [use for path in SOURCES for use in read_uses(path.read_text(encoding="utf-8"), api)[0]]


def test_the_bindings_are_of_that_version(api: Api, version: str) -> None:
    assert api["version"].startswith(f"{version}.")
    assert len(api["classes"]) > 150


def test_everything_that_is_used_is_there(api: Api) -> None:
    uses = used(api)
    symbols = {use.symbol for use in uses}
    print(f"TensorRT {api['version']}: {len(symbols)} symbols used, {len(uses)} times")  # noqa: T201 - see with pytest -rP
    assert list(complaints(uses)) == []
    assert len(symbols) > 80
    assert symbols >= {
        "Builder.build_serialized_network", "IExecutionContext.execute_async_v3", "IProgressMonitor.step_complete",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "ITimingCache.combine(ignore_mismatch=)", "ILogger.log",
    }  # fmt: skip


def test_no_use_escapes_because_its_type_was_not_followed(api: Api) -> None:
    names = {name for members in api["classes"].values() for name in members}
    unknown = {name for path in SOURCES for name in read_uses(path.read_text(encoding="utf-8"), api)[1]}
    assert "errors" in unknown, "attributes of our own objects were seen"
    assert unknown & names - OURS == set()


def test_the_levels_that_a_profile_may_name_are_there(api: Api) -> None:
    levels = {name.lower() for name in api["classes"]["HardwareCompatibilityLevel"]}
    wished = set(get_args(get_type_hints(EngineSettings)["hardware_compatibility"]))
    later = {"same_compute_capability"} if api["version"].startswith("10.3.") else set()
    assert wished - levels == later


def test_precision_flags_are_not_used(api: Api) -> None:
    gone = {"FP16", "INT8", "BF16", "FP8", "OBEY_PRECISION_CONSTRAINTS"}
    assert {use.name for use in used(api)} & gone == set()


def test_the_fake_has_no_name_that_the_real_one_lacks(api: Api) -> None:
    tree = ast.parse((HERE / "fake_tensorrt.py").read_text(encoding="utf-8"))
    names = list(_public_names(tree))
    assert len(names) > 50
    missing = [name for owner, name in names if name not in api["classes"].get(owner, api["module"])]
    known_later = ["EXPLICIT_BATCH"] if api["version"].startswith("11.") else []
    assert missing == known_later


def _public_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """("", class) and (class, member) of the fake; an attribute is a member too."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield "", node.name
            for member in ast.walk(node):
                named = [member.name] if isinstance(member, (ast.FunctionDef, ast.ClassDef)) else []
                if isinstance(member, (ast.Assign, ast.AnnAssign)) and member in node.body:
                    targets = member.targets if isinstance(member, ast.Assign) else [member.target]
                    named = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
                yield from ((node.name, name) for name in named if not name.startswith("_") and name != node.name)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("trt.Bilder(logger)", "Bilder: no such name"),
        ("def f(builder: tensorrt.Builder):\n    builder.create_netwrk()", "Builder.create_netwrk: no such member"),
        ("def f(x: tensorrt.Bilder): x", "Bilder: no such name"),
        ("trt.BuilderFlag.TF33", "BuilderFlag.TF33: no such member"),
        (
            "config = trt.Builder(logger).create_builder_config()\nconfig.set_flagg(1)",
            "IBuilderConfig.set_flagg: no such",
        ),
        ("def f(c: tensorrt.IBuilderConfig): c.max_workspace_size = 1", "IBuilderConfig.max_workspace_size: no such"),
        ("def f(e: tensorrt.ICudaEngine): e.num_io_tensors = 1", "ICudaEngine.num_io_tensors: can't be set"),
        (
            "def f(c: tensorrt.IBuilderConfig, t):\n    c.set_timing_cache(t, ignore=True)",
            "IBuilderConfig.set_timing_cache: takes no 1 arguments and ignore",
        ),
        ("def f(c: tensorrt.IExecutionContext): c.execute_async_v3()", "execute_async_v3: takes no 0 arguments and no"),
        (
            "def f(p: tensorrt.OnnxParser):\n    for e in [p.get_error(i) for i in y]:\n        e.text()",
            "ParserError.text: no such",
        ),
        ("class L(trt.ILogger):\n    def log(self, level, msg): ...", "ILogger.log: takes no ['level', 'msg']"),
        ("class M(trt.IProgressMonitor):\n    def phase_end(self, name): ...", "phase_end: nothing to override"),
        (
            "class E:\n    def __init__(self):\n        self._r: tensorrt.Runtime = trt.Runtime(1)\n"
            "    def g(self):\n        self._r.deserialize(b'')",
            "Runtime.deserialize: no such member",
        ),
    ],
)
def test_a_wrong_name_is_found(api: Api, source: str, told: str) -> None:
    (complaint,) = complaints(read_uses(source, api)[0])
    assert told in complaint


def test_the_real_bindings_accept_our_logger_and_refuse_without_a_library_as_we_expect(api: Api, version: str) -> None:
    code = """
import sys, tensorrt_bindings
sys.modules["tensorrt"] = tensorrt_bindings
from edgeoe.backends import tensorrt_bindings as ours, tensorrt_engine
from edgeoe.errors import BackendError
from edgeoe.progress import silent
from edgeoe.targets.profile import EngineSettings
monitor = ours.new_monitor(tensorrt_bindings, ours.BuildPhases(lambda: None))
assert isinstance(monitor, tensorrt_bindings.IProgressMonitor) and monitor.step_complete("a phase", 0)
logger = ours.process_logger(tensorrt_bindings)
logger.log(logger.ERROR, "told"), logger.log(logger.WARNING, "not told")
assert logger.errors == ["told"]
for use in (
    lambda: tensorrt_engine.plan_from_onnx(b"", EngineSettings(), timing_cache=None, progress=silent),
    lambda: tensorrt_engine.Engine(b"", EngineSettings(), None),
):
    try:
        use()
    except BackendError as reason:
        print(reason)
"""
    environment = TOOL.environment(TOOL.make_importable(version))
    environment["PYTHONPATH"] += f":{PACKAGE.parent}"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    told = ran.stdout.splitlines()
    assert len(told) == 2, "a builder and a runtime that the stubs answer with null"
    assert all(line.startswith("TensorRT can't start: ") for line in told)
