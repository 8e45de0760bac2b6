"""A runtime that edgeoe has never heard of: one file and one row, and every command knows it."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from distributions import write_distribution
from made_up import QUICK_PROFILE

from edgeoe.doctor import examine
from edgeoe.errors import ConfigError, TargetError
from edgeoe.pipeline import build, bundle, collect, validate
from edgeoe.run.directory import Run
from edgeoe.run.result_file import read_result
from edgeoe.targets.backends import known_backends, runs_on, traits_of
from edgeoe.targets.load import check_target, load_target

SOURCE = '''
"""A runtime that rounds what another one computes."""
import shutil
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from edgeoe.codec import from_json
from edgeoe.errors import BackendError
from edgeoe.files import write_atomic
from edgeoe.targets.backends import Traits
from edgeoe.targets.issue import Issue


@dataclass(frozen=True)
class Settings:
    """[rounding] of a profile."""

    digits: int = 4


def issues(target):
    if from_json(Settings, target.options).digits > 6 and target.precision == "fp32":
        yield Issue("rounding", "digits", "digits must be at most 6 in fp32.")


class Rounding:
    traits = Traits(
        title="Rounding Runtime",
        requirement="onnxruntime",
        modules=("onnxruntime",),
        suffix=".round",
        portable=True,
        processor=lambda target: "cpu",
        int8_recipe=lambda target: "int8-cpu",
        describe=lambda: "rounds to any digit",
        options=Settings,
        issues=issues,
    )

    def check(self, target):
        pass

    def build(self, graph, target, artifact, *, progress=None):
        write_atomic(artifact, lambda path: shutil.copyfile(graph, path))
        return {"digits": target.options["digits"]}

    @contextmanager
    def open(self, artifact, target):
        yield Runner(artifact, from_json(Settings, target.options).digits)

    def versions(self):
        return {"rounding": "1.2"}


class Runner:
    def __init__(self, path, digits):
        import onnxruntime

        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as reason:
            raise BackendError(f"{path}: can't load it: {reason}") from reason
        self.image_shape = tuple(self._session.get_inputs()[0].shape[1:])
        self._digits = digits

    def infer(self, x):
        return np.round(self._session.run(None, {self._session.get_inputs()[0].name: x})[0], self._digits)
'''
PROFILE = QUICK_PROFILE.replace('"onnxruntime"', '"rounding"') + "top1 = 0.01\n\n[rounding]\ndigits = 5\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with the distribution; the working folder has a profile for it."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_distribution(folder, "rounding_runtime", SOURCE, backends={"rounding": "rounding_runtime:Rounding"})
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "rounding_runtime", raising=False)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/theirs.toml").write_text(PROFILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.usefixtures("site")
def test_its_own_table_is_read_and_checked() -> None:
    profile = Path("targets/theirs.toml")
    target = load_target("theirs")
    assert (target.backend, target.options) == ("rounding", {"digits": 5})
    assert runs_on(target) == "cpu"
    assert check_target("theirs") == []
    line = PROFILE.splitlines().index("digits = 5") + 1
    for text, message in {
        "digits = 7": "digits must be at most 6 in fp32.",
        'digits = "x"': "digits: input should be a valid integer. Got 'x'.",
        "digit = 5": "unknown key 'digit' in [rounding]. Did you mean 'digits'?",
    }.items():
        profile.write_text(PROFILE.replace("digits = 5", text), encoding="utf-8")
        assert check_target("theirs") == [f"{profile}:{line}: {message}"]
    profile.write_text(PROFILE + "[runtime]\nthreads = 2\n", encoding="utf-8")
    assert check_target("theirs") == [
        f"{profile}:{line + 1}: backend rounding reads no [runtime]: that is for onnxruntime and openvino. Remove it."
    ]
    profile.write_text(PROFILE.replace('"rounding"', '"onnxruntime"'), encoding="utf-8")
    assert check_target("theirs") == [
        f"{profile}:{line - 1}: backend onnxruntime reads no [rounding]: that is for rounding. Remove it."
    ]


@pytest.mark.usefixtures("site")
def test_doctor_lists_it_and_a_wrong_name_is_answered_with_it() -> None:
    assert ("Rounding Runtime targets", True, "rounds to any digit") in [
        (one.what, one.here, one.detail) for one in examine()
    ]
    assert traits_of("rounding").install == "pip install onnxruntime"
    Path("targets/theirs.toml").write_text('backend = "roundin"\n', encoding="utf-8")
    with pytest.raises(TargetError, match=r"theirs\.toml:1: unknown backend 'roundin'\. Did you mean 'rounding'\?$"):
        load_target("theirs")


@pytest.mark.usefixtures("site")
def test_it_builds_and_is_measured_and_judged(exported: Path, pictures: Path) -> None:
    run, target = Run.open(exported), load_target("theirs")
    artifact = build(run, target)
    assert (artifact.artifact, artifact.settings) == ("targets/theirs/model.round", {"digits": 5})
    validation = validate(run, target, test=pictures / "test")
    assert validation.measurement.speed is not None
    assert validation.measurement.environment["versions"] == {"rounding": "1.2"}
    assert [(check.name, check.outcome) for check in validation.verdict.checks] == [
        ("golden_agreement", "passed"),
        ("top1", "passed"),
    ]


@pytest.mark.usefixtures("site")
def test_its_bundle_runs_where_it_is_not_installed(exported: Path, tmp_path: Path) -> None:
    run = Run.open(exported)
    record = bundle(run, load_target("theirs"), out=tmp_path / "b.tar.gz")
    rows = {f"lib/rounding_runtime-1.2.dist-info/{name}" for name in ("METADATA", "entry_points.txt")}
    assert rows | {"lib/rounding_runtime.py"} < set(record.files)
    assert not any(name.startswith("lib/edgeoe/backends/onnxruntime") for name in record.files)
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        archive.extractall(tmp_path / "device", filter="data")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "edgeoe-theirs/run.py"],
        cwd=tmp_path / "device", env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    result = read_result(tmp_path / "device/result.json")
    assert result.speed is not None
    assert result.target.options == {"digits": 5}
    assert collect(run, tmp_path / "device/result.json").measurement.golden_agreement == 1.0


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_runtime\n", "can't be imported from rounding_runtime:Rounding: ModuleNotFoundError"),
        ("class Rounding:\n    pass\n", "has no traits. Got None."),
    ],
)
def test_a_broken_one_is_a_line_and_spoils_no_other(site: Path, source: str, why: str) -> None:
    (site / "rounding_runtime.py").write_text(source, encoding="utf-8")
    assert "rounding" not in known_backends()
    assert runs_on(load_target("host-cpu")) == "cpu"
    (finding,) = (one for one in examine() if "rounding" in one.what)
    assert not finding.here
    assert why in finding.detail
    with pytest.raises(ConfigError, match="rounding_runtime"):
        traits_of("rounding")


def test_a_module_that_is_not_python_source_is_not_bundled(exported: Path, tmp_path: Path, site: Path) -> None:
    py_compile.compile(str(site / "rounding_runtime.py"), cfile=str(site / "rounding_runtime.pyc"))
    (site / "rounding_runtime.py").unlink()
    with pytest.raises(
        ConfigError, match=r"^rounding_runtime can't be bundled: it is not a module of Python source\.$"
    ):
        bundle(Run.open(exported), load_target("theirs"), out=tmp_path / "b.tar.gz")
