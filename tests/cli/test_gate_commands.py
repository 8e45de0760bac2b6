"""bundle, collect, baseline and compare as a user types them; and the gate where torch is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_up import QUICK_PROFILE, result

from edgeoe.files import file_sha256
from edgeoe.run.result_file import write_result

Edgeoe = Callable[..., tuple[int, str, str]]
LOOSE = ("--tolerance", "99%", "--p99-tolerance", "99%", "--accuracy-tolerance", "0.5", "--class-tolerance", "0.9")


@pytest.fixture
def measured(exported: Path, edgeoe: Edgeoe, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with ./run built and validated for the target quick."""
    monkeypatch.chdir(exported.parent)
    Path("targets").mkdir()
    Path("targets/quick.toml").write_text(QUICK_PROFILE)
    assert edgeoe("build", "run", "--target", "quick")[0] == 0
    assert edgeoe("validate", "run", "--target", "quick", "--test", pictures / "test")[0] == 0
    return exported.parent


def test_a_baseline_is_saved_listed_shown_and_compared(edgeoe: Edgeoe, measured: Path) -> None:
    code, out, _ = edgeoe("baseline", "list")
    assert (code, out.splitlines()[0]) == (0, "baselines: no baselines")
    code, out, err = edgeoe("baseline", "save", "run", "--target", "quick", "--name", "main")
    assert (code, err) == (0, "")
    assert "main for quick, sha256" in out
    code, _, _ = edgeoe("baseline", "list", "--json", "list.json")
    (one,) = json.loads(Path("list.json").read_text())
    assert (one["name"], one["target"], one["test_images"]) == ("main", "quick", 30)
    code, out, _ = edgeoe("baseline", "show", "main", "--target", "quick")
    assert (code, "onnxruntime" in out) == (0, True)
    code, out, err = edgeoe(
        "compare",
        "main",
        "run",
        "--target",
        "quick",
        *LOOSE,
        "--json",
        "c.json",
        "--junit",
        "c.xml",
        "--markdown",
        "c.md",
    )
    assert code == 0, err
    assert out.endswith("quick: passed\n")
    (comparison,) = json.loads(Path("c.json").read_text())
    assert (comparison["how"], comparison["outcome"]) == ("interleaved", "passed")
    assert comparison["latency"][0]["n"] >= 10
    assert [row["subject"] for row in comparison["accuracy"]] == ["top-1", "square", "cross", "circle"]
    assert ElementTree.parse("c.xml").getroot().attrib["failures"] == "0"  # noqa: S314 - our own
    assert Path("c.md").read_text().startswith("<!-- edgeoe -->\n**edgeoe: ✅ passed**")


ONE_EACH = ("load_ms", "first_ms", "peak_memory_mb")


def test_stored_results_need_no_artifact_and_can_fail(edgeoe: Edgeoe, measured: Path) -> None:
    Path("slow").mkdir()
    own = json.loads((measured / "run/targets/quick/result.json").read_text())
    own["speed"]["calls_ms"] = [[1.0 + 0.001 * call + 0.01 * process for call in range(50)] for process in range(8)]
    for one in (own["speed"], own["speed"]["throughput_ips"]):
        one |= {
            key: values[:1] * 8 for key, values in one.items() if key in (*ONE_EACH, *own["speed"]["throughput_ips"])
        }
    own["speed"]["disturbed"] = []  # whatever this machine did meanwhile
    Path("fast.json").write_text(json.dumps(own))
    own["speed"]["calls_ms"] = [[2 * call for call in calls] for calls in own["speed"]["calls_ms"]]
    Path("slow/slow.json").write_text(json.dumps(own))
    code, out, err = edgeoe("compare", "fast.json", "slow/slow.json", "--target", "quick", "--stored", "--github")
    assert code == 1, err
    assert "::error title=p50 regressed on quick::+100.0 %25" in out
    assert out.endswith("quick: failed\n")


def test_results_of_other_machines_are_inconclusive_with_the_field(edgeoe: Edgeoe, measured: Path) -> None:
    own = json.loads((measured / "run/targets/quick/result.json").read_text())
    own["environment"]["cpu"] = "Another CPU"
    Path("other.json").write_text(json.dumps(own))
    code, out, _ = edgeoe("compare", "run", "other.json", "--target", "quick", "--stored")
    assert code == 3
    assert "and is Another CPU" in out


def test_a_bundle_is_made_and_its_result_collected(edgeoe: Edgeoe, measured: Path, pictures: Path) -> None:
    code, out, err = edgeoe("bundle", "run", "--target", "quick", "-o", "b.tar.gz", "--test", pictures / "test")
    assert code == 0, err
    assert "30 test images" in out
    subprocess.run(["tar", "-xf", "b.tar.gz"], check=True)
    ran = subprocess.run([sys.executable, "edgeoe-quick/run.py"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    code, out, err = edgeoe("collect", "run", "result.json", "--junit", "v.xml", "--json", "v.json")
    assert code == 0, err
    assert out.splitlines()[-1].startswith("next: edgeoe baseline save")
    assert json.loads(Path("v.json").read_text())["golden_agreement"] == 1.0
    assert ElementTree.parse("v.xml").getroot().attrib["errors"] == "0"  # noqa: S314 - our own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compare a b --target quick", "baselines: no baseline 'a' for quick. It is empty."),
        ("compare run run --target quik", "unknown target 'quik'. Did you mean 'quick'?"),
        (
            "compare run run --target quick --tolerance lots",
            "Invalid value for '--tolerance': a share is written as 0.5 or 50%. Got 'lots'",
        ),
        ("compare run x/y.onnx --target quick", "x/y.onnx: not a run, a result (.json) or an artifact."),
        ("baseline save run --target host-cpu", "run: nothing built for host-cpu. Build: edgeoe build run"),
        ("baseline save run --target quick --name a/b", "--name takes letters, digits and . _ -"),
        ("baseline show main --target quick", "baselines: no baseline 'main' for quick."),
        ("bundle run --target quick -o b.zip", "--out must end with .tar.zst, .tar.gz, .tar. Got 'b.zip'."),
        ("bundle run --target quick -o run/student.onnx/b.tar", "--out run/student.onnx/b.tar: can't be written"),
        ("collect run nothing.json", "nothing.json: no such file."),
        ("collect run run/manifest.json", "run/manifest.json: not a result of this version of edgeoe"),
        ("collect run run/targets/quick/validation.json", "run/targets/quick/validation.json: a verdict, as validate"),
        ("collect run run/targets/quick/result.json", "run/targets/quick/bundle.json: missing. Make it: edgeoe bundle"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(edgeoe: Edgeoe, measured: Path, arguments: str, message: str) -> None:
    code, _, err = edgeoe(*arguments.split())
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert line.startswith(f"error: {message}")


def test_a_baseline_of_what_was_never_measured_is_refused(edgeoe: Edgeoe, measured: Path) -> None:
    code, _, err = edgeoe("baseline", "save", "run/targets/quick/model.onnx", "--target", "quick")
    assert code == 2
    assert "not measured yet. First: edgeoe validate" in err


def test_the_gate_needs_no_torch(measured: Path, tmp_path: Path) -> None:
    """With nothing importable but what edgeoe[gate] brings."""
    lean = tmp_path / "lean"
    lean.mkdir()
    (lean / "sitecustomize.py").write_text(
        "import sys\n"
        "REFUSED = {'torch', 'torchvision', 'timm', 'onnx', 'onnxscript', 'lightning_fabric', 'sklearn', 'PIL', "
        "'tomli_w', 'zstandard', 'onnxconverter_common', 'openvino'}\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in REFUSED:\n"
        "            raise ModuleNotFoundError(f'no {name}', name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(lean), "COLUMNS": "200"}
        command = [sys.executable, "-m", "edgeoe", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)

    saved = run("baseline", "save", "run", "--target", "quick")
    assert saved.returncode == 0, saved.stderr
    compared = run("compare", "main", "run", "--target", "quick", *LOOSE, "--markdown", "c.md")
    assert compared.returncode == 0, compared.stderr
    refused = run("export", "run")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: this needs ")
    assert "pip install 'edgeoe[compress]'" in refused.stderr


def test_a_result_beside_its_artifact_is_at_hand(edgeoe: Edgeoe, measured: Path) -> None:
    artifact = measured / "run/targets/quick/model.onnx"
    own = result(artifact=artifact.name, artifact_sha256=file_sha256(artifact))
    write_result(artifact.with_name("device.json"), own)
    code, _, err = edgeoe("compare", artifact, artifact, "--target", "quick", *LOOSE)
    assert code == 0, err
