"""bundle, collect, baseline and compare as a user types them; and the gate where torch is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_up import QUICK_PROFILE, result

from edgeoe.files import file_sha256
from edgeoe.measure.interleaved import Round
from edgeoe.run.result_file import write_result
from edgeoe.targets.profile import Target

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


def test_limits_in_a_file_that_nobody_names_are_not_read(edgeoe: Edgeoe, measured: Path) -> None:
    own = json.loads((measured / "run/targets/quick/result.json").read_text())
    labels = own["predictions"]["labels"]
    half = [label if number % 2 else (label + 1) % 3 for number, label in enumerate(labels)]
    for name, chosen in (("good", labels), ("half", half)):
        Path(f"{name}.json").write_text(json.dumps(own | {"predictions": own["predictions"] | {"chosen": chosen}}))
    Path("loose.toml").write_text("[compare]\naccuracy_tolerance = 0.95\nclass_tolerance = 0.95\n")
    shutil.copy("loose.toml", "edgeoe.toml")
    command = ("compare", "good.json", "half.json", "--target", "quick", "--stored")
    code, out, err = edgeoe(*command)
    assert (code, "regressed    top-1: -50.0 points" in out) == (1, True)
    assert "edgeoe.toml: not read, as limits come from the command line alone" in err
    code, out, err = edgeoe(*command, "--config", "loose.toml")
    assert "no worse     top-1: -50.0 points" in out
    assert "not read" not in err
    assert code in (0, 3)  # latencies of so few calls are unclear


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds in which both take the same time; no process is started for them."""

    def measure_round(base: Path, new: Path, target: Target, number: int) -> Round:
        calls = (tuple(1 + (call + number) / 1000 for call in range(50)),)
        return Round(calls, calls)

    monkeypatch.setattr("edgeoe.stages.compare.measure_round", measure_round)


def test_both_predict_the_images_that_lie_here(edgeoe: Edgeoe, measured: Path, pictures: Path, alike: None) -> None:
    command = ("compare", "run", "run:run", "--target", "quick", *LOOSE, "--markdown", "c.md", "--json", "c.json")
    code, out, err = edgeoe(*command, "--junit", "c.xml", "--github", "--test", pictures / "test")
    assert code == 0, err
    for text in (out, Path("c.md").read_text(), Path("c.xml").read_text()):
        assert "latency measured here; accuracy measured here" in text
    (record,) = json.loads(Path("c.json").read_text())
    assert (record["latency_from"], record["accuracy_from"]) == ("measured here", "measured here")
    code, out, err = edgeoe(*command, "--junit", "c.xml", "--github")
    assert code == 0, err
    for text in (out, Path("c.md").read_text(), Path("c.xml").read_text()):
        assert "latency measured here; accuracy as reported" in text


def test_figures_of_results_alone_are_as_reported_in_every_output(
    edgeoe: Edgeoe, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    own = json.loads((measured / "run/targets/quick/result.json").read_text())
    own["speed"]["disturbed"] = []
    Path("a.json").write_text(json.dumps(own))
    own["predictions"]["chosen"] = [(label + 1) % 3 for label in own["predictions"]["labels"]]
    Path("b.json").write_text(json.dumps(own))
    code, out, _ = edgeoe(
        *("compare", "a.json", "b.json", "--target", "quick", "--stored", "--github"),
        *("--markdown", "c.md", "--json", "c.json", "--junit", "c.xml"),
    )
    assert code in (1, 3)
    assert "latency as reported; accuracy as reported" in out
    annotations = [line for line in out.splitlines() if line.startswith("::")]
    assert annotations
    assert all("as reported" in line for line in annotations)
    assert "latency as reported; accuracy as reported" in Path("c.md").read_text()
    assert "latency as reported; accuracy as reported" in Path("summary.md").read_text()
    (record,) = json.loads(Path("c.json").read_text())
    assert (record["latency_from"], record["accuracy_from"]) == ("as reported", "as reported")
    for case in ElementTree.parse("c.xml").getroot().iter("testcase"):  # noqa: S314 - our own
        assert "as reported" in str(ElementTree.tostring(case))


def test_results_that_a_key_vouches_for_are_signed_and_others_refused(
    edgeoe: Edgeoe, measured: Path, keys: Callable[[str], tuple[Path, Path]]
) -> None:
    pytest.importorskip("model_signing", reason="model-signing is not installed: pip install 'edgeoe[sign]'")
    private, public = keys("ours")
    own = json.loads((measured / "run/targets/quick/result.json").read_text())
    own["speed"]["disturbed"] = []
    Path("new.json").write_text(json.dumps(own))
    assert edgeoe("baseline", "save", "new.json", "--target", "quick", "--sign", private)[0] == 0
    assert Path("baselines/main/quick.json.sig").is_file()
    command = ("compare", "main", "new.json", "--target", "quick", "--stored", "--verify", public)
    code, _, err = edgeoe(*command)
    assert (code, "error: new.json: not signed" in err) == (2, True)
    from edgeoe.stages.signing import signer_with

    signer_with(private)(Path("new.json"))
    code, out, err = edgeoe(*command)
    assert code in (0, 3), err
    assert "latency signed; accuracy signed" in out
    code, _, err = edgeoe(*command[:-1], keys("theirs")[1])
    assert (code, "baselines/main/quick.json: its signature quick.json.sig does not hold" in err) == (2, True)


def test_a_bundle_is_signed_and_its_result_verified(
    edgeoe: Edgeoe, measured: Path, keys: Callable[[str], tuple[Path, Path]]
) -> None:
    pytest.importorskip("model_signing", reason="model-signing is not installed: pip install 'edgeoe[sign]'")
    private, public = keys("ours")
    command = ("bundle", "run", "--target", "quick", "-o", "b.tar.gz")
    code, _, err = edgeoe(*command, "--sign", public)
    assert (code, "no private key of an elliptic curve" in err, Path("b.tar.gz").exists()) == (2, True, False)
    code, out, err = edgeoe(
        "bundle", "run", "--target", "quick", "-o", "b.tar.gz", "--sign", private, "--json", "b.json"
    )
    assert code == 0, err
    assert json.loads(Path("b.json").read_text())["signature"] == "b.tar.gz.sig"
    verify = out.partition("to verify it: ")[2].splitlines()[0].replace("KEY", str(public)).split()
    program = Path(sys.executable).with_name(verify[0])
    subprocess.run([program, *verify[1:]], check=True, capture_output=True)
    facts = json.loads(Path("run/targets/quick/bundle.json").read_text())
    assert "sbom.cdx.json" in facts["files"]
    subprocess.run(["tar", "-xf", "b.tar.gz"], check=True)
    listed = json.loads(Path("edgeoe-quick/sbom.cdx.json").read_text())["components"]
    hashes = {each["name"]: each["hashes"][0]["content"] for each in listed if "hashes" in each}
    assert {**hashes, "sbom.cdx.json": facts["files"]["sbom.cdx.json"]} == facts["files"]
    assert {each["name"] for each in listed if each.get("scope") == "excluded"} == {"python", "numpy", "onnxruntime"}
    own = json.loads((measured / "run/targets/quick/result.json").read_text())
    own["bundle_sha256"] = file_sha256(Path("run/targets/quick/bundle.json"))
    own["predictions"] = None
    Path("result.json").write_text(json.dumps(own))
    code, _, err = edgeoe("collect", "run", "result.json", "--verify", public)
    assert (code, "error: result.json: not signed" in err) == (2, True)
    from edgeoe.stages.signing import signer_with

    signer_with(private)(Path("result.json"))
    assert edgeoe("collect", "run", "result.json", "--verify", public)[0] in (0, 1, 3)
    own["speed"]["calls_ms"] = [[call / 2 for call in calls] for calls in own["speed"]["calls_ms"]]
    Path("result.json").write_text(json.dumps(own))
    code, _, err = edgeoe("collect", "run", "result.json", "--verify", public)
    assert (code, "its signature result.json.sig does not hold" in err) == (2, True)
