"""fp16 and int8 graphs of a run, built and validated like any other."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import QUICK

from edgeoe.errors import ExportError, RunError
from edgeoe.graph import int8
from edgeoe.graph.evaluation import run_graph
from edgeoe.graph.precision import Int8Settings, Source
from edgeoe.graph.precisions import FP16
from edgeoe.graph.recipes import RECIPES, Recipe
from edgeoe.pipeline import build, bundle, deploy, export, validate
from edgeoe.report.json import validation_json
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings
from edgeoe.stages.precisions import graph_file
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import DeviceFacts, RuntimeSettings


def processor(monkeypatch: pytest.MonkeyPatch, *, saturates: bool | None) -> None:
    """Let this machine have a processor whose int8 sums saturate, or not; None: it is unknown."""
    monkeypatch.setattr("edgeoe.graph.precisions.int8_saturates", lambda: saturates)
    monkeypatch.setattr("edgeoe.machine.environment.int8_saturates", lambda **_: saturates)


def refuse(monkeypatch: pytest.MonkeyPatch, *recipes: Recipe) -> None:
    """Let graphs of `recipes` agree with fp32 on half of the images."""
    draft, agreement, current = int8._draft, Source.agreement, [""]

    def drafting(maker: int8._Maker) -> object:
        current[0] = maker.recipe
        return draft(maker)

    def agreeing(self: Source, logits: np.ndarray) -> float:
        return 0.5 if current[0] in recipes else agreement(self, logits)

    monkeypatch.setattr(int8, "_draft", drafting)
    monkeypatch.setattr(Source, "agreement", agreeing)


def test_every_precision_is_written_with_how_far_it_is(exported: Path) -> None:
    run = Run(exported)
    record = export(run, precisions=["fp32", "fp16", "int8"])
    assert [graph.precision for graph in record.graphs] == ["fp16", "int8-cpu", "int8-cpu-7bit", "int8-trt"]
    for graph in record.graphs:
        assert (run.path / graph.path).stat().st_size == graph.size_bytes
        assert 0 < graph.max_rel_error < 0.3
        assert graph.agreement >= 0.9
    half, cpu, *_ = record.graphs
    assert half.max_rel_error < 0.02
    assert (half.calibration, cpu.calibration) == (None, "percentile")
    assert cpu.calibration_images > 0
    saved = run.read(layout.EXPORT)
    assert saved.graphs == record.graphs


def give_images(run: Run, *, calibration: int, others: int, seed: int = 0) -> np.ndarray:
    """Write made-up calibration images, dim ones, and bright ones to judge by; these, as the network takes them."""
    rng = np.random.default_rng(seed)
    dim, bright = (
        rng.integers(0, top, (n, 3, 16, 16)).astype(np.uint8) for n, top in ((calibration, 90), (others, 256))
    )
    run.save_tensors(layout.CALIBRATION, pixels=dim, others=bright)
    return run.read(layout.FACTS).preprocess.normalise(bright)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_is_judged_on_images_that_it_was_not_calibrated_with(exported: Path, precision: str) -> None:
    """As many of either, so that only what they show can tell which were taken."""
    run = Run(exported)
    others = give_images(run, calibration=40, others=40)
    for record in export(run, precisions=[precision]).graphs:
        expected, got = (run_graph(run.path / name, others) for name in ("student.onnx", record.path))
        assert record.images == 40
        assert record.agreement == float((got.argmax(1) == expected.argmax(1)).mean())
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        assert record.max_rel_error == pytest.approx(error, rel=0.05)


def test_images_to_judge_by_leave_the_ranges_alone(exported: Path) -> None:
    run, made = Run(exported), []
    for calibration, others in ((24, 30), (24, 50), (25, 30)):
        give_images(run, calibration=calibration, others=others)
        (record,) = export(run, precisions=["int8"], variants=["int8-cpu"]).graphs
        assert (record.calibration_images, record.images) == (calibration, others)
        made.append(record.sha256)
    assert made[0] == made[1] != made[2]


def test_the_sensitivity_of_layers_is_measured_on_images_to_judge_by(exported: Path) -> None:
    run, layers = Run(exported), []
    pixels = np.random.default_rng(5).integers(0, 90, (24, 3, 16, 16)).astype(np.uint8)
    for top in (90, 90, 256):
        others = np.random.default_rng(6).integers(0, top, (24, 3, 16, 16)).astype(np.uint8)
        run.save_tensors(layout.CALIBRATION, pixels=pixels, others=others)
        int8 = Int8Settings(sensitivity=True)
        (record,) = export(run, precisions=["int8"], variants=["int8-cpu"], int8=int8).graphs
        layers.append(record.layers)
    assert layers[0] == layers[1] != layers[2]
    assert max(one.error for one in layers[2]) > max(one.error for one in layers[0]), "beyond the ranges"


def test_layers_stay_fp32_until_the_drop_is_met_on_images_to_judge_by(exported: Path) -> None:
    """Those of which the student is least sure; of the noise that int8 is calibrated with it is."""
    run, rng = Run(exported), np.random.default_rng(0)
    colours = np.broadcast_to(rng.integers(0, 256, (1500, 3, 1, 1)), (1500, 3, 16, 16)).astype(np.uint8)
    logits = np.sort(run_graph(run.path / "student.onnx", run.read(layout.FACTS).preprocess.normalise(colours)), 1)
    unsure = colours[np.argsort(logits[:, -1] - logits[:, -2])[:40]]
    noise = rng.integers(0, 256, (24, 3, 16, 16)).astype(np.uint8)
    run.save_tensors(layout.CALIBRATION, pixels=noise, others=unsure)
    allowed = Int8Settings(max_drop=0.0)
    (record,) = export(run, precisions=["int8"], variants=["int8-trt"], int8=allowed).graphs
    assert len(record.kept_fp32) > 0
    assert record.agreement == 1


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("saturates", "file"),
    [(True, "student-int8-cpu-7bit.onnx"), (False, "student-int8-cpu.onnx"), (None, "student-int8-cpu.onnx")],
)
def test_this_machine_gets_the_recipe_that_its_processor_needs(
    saturates: bool | None, file: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, saturates=saturates)
    here = replace(load_target("host-cpu"), precision="int8", backend=backend)
    assert graph_file(here).name == file
    assert graph_file(here, here=False).name == "student-int8-cpu.onnx", "of another machine nothing is known"
    for told, recipe in ((True, "int8-cpu"), (False, "int8-cpu-7bit")):
        profile = replace(here, device=DeviceFacts(int8_dot=told))
        assert {graph_file(profile).name, graph_file(profile, here=False).name} == {f"student-{recipe}.onnx"}
    assert graph_file(replace(here, device=DeviceFacts(memory_gb=8))).name == "student-int8-cpu.onnx"
    gpu = replace(here, backend="openvino", runtime=RuntimeSettings(unit="gpu"))
    assert graph_file(gpu).name == "student-int8-cpu.onnx"


@pytest.mark.parametrize("name", ["intel-n100", "intel-n100-openvino", "raspberry-pi-5", "jetson-xavier-nx"])
def test_profiles_of_other_devices_do_not_depend_on_this_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, saturates=True)
    assert graph_file(replace(load_target(name), precision="int8")).name == "student-int8-cpu.onnx"


def test_a_target_names_the_graph_that_it_has_kernels_for() -> None:
    int8 = replace(load_target("host-cpu"), precision="int8")
    assert graph_file(replace(int8, runtime=RuntimeSettings(provider="tensorrt"))).name == "student-int8-trt.onnx"
    assert graph_file(replace(int8, backend="tensorrt")).name == "student-int8-trt.onnx"
    assert graph_file(replace(int8, precision="fp16")).name == "student-fp16.onnx"


@pytest.mark.parametrize(("saturates", "recipe"), [(True, "int8-cpu-7bit"), (False, "int8-cpu")])
def test_a_target_gets_the_graph_of_its_precision(
    saturates: bool, recipe: Recipe, exported: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, saturates=saturates)
    run = Run(exported)
    target = replace(load_target("host-cpu"), precision="int8", measure=QUICK)
    with pytest.raises(RunError, match=r"export .* --precision int8"):
        build(run, target)
    export(run, precisions=["int8"], variants=[recipe])
    artifact = build(run, target)
    assert (run.path / artifact.artifact).read_bytes() == (run.path / f"student-{recipe}.onnx").read_bytes()
    measurement = validate(run, target, test=pictures / "test").measurement
    assert measurement.golden_agreement >= 0.9
    assert measurement.notes == ()


@pytest.mark.parametrize("saturates", [True, False])
def test_sums_that_saturate_are_told(
    saturates: bool, exported: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that says nothing of the processor, or something wrong."""
    processor(monkeypatch, saturates=saturates)
    run, host = Run(exported), load_target("host-cpu")
    target = replace(host, precision="int8", measure=QUICK, device=DeviceFacts(memory_gb=8))
    export(run, precisions=["int8"], variants=["int8-cpu"])
    build(run, target)
    measurement = validate(run, target, test=pictures / "test").measurement
    assert measurement.environment["int8_saturates"] is saturates
    record = validation_json(run.read(layout.TargetFiles("host-cpu").validation))
    assert record["notes"] == [*measurement.notes]
    if saturates:
        (note,) = measurement.notes
        assert "int8 sums saturate here" in note
        assert "Set int8_dot = false in [device] of the profile, and build again." in note
    else:
        assert measurement.notes == ()


def test_exporting_again_forgets_graphs_of_before(exported: Path) -> None:
    run = Run(exported)
    export(run, precisions=["int8"])
    export(run)
    assert not list(run.path.glob("student-*.onnx"))


def test_the_most_sensitive_layers_stay_fp32_until_the_drop_is_met(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agreement is made up: three layers must stay."""

    def agreement(self: Source, logits: np.ndarray) -> float:
        return 1 - max(0, 3 - kept[-1]) / 100

    kept = [0]
    make = int8._Maker.make

    def making(self: int8._Maker, keep: list[str]) -> object:
        kept.append(len(keep))
        return make(self, keep)

    monkeypatch.setattr(Source, "agreement", agreement)
    monkeypatch.setattr(int8._Maker, "make", making)
    (record,) = export(
        Run(exported), precisions=["int8"], variants=["int8-cpu"], int8=Int8Settings(max_drop=0.0)
    ).graphs
    assert record.kept_fp32 == tuple(layer.layer for layer in record.layers[:3])
    errors = [layer.error for layer in record.layers]
    assert errors == sorted(errors, reverse=True)


def test_each_recipe_is_judged_alone(
    exported: Path, monkeypatch: pytest.MonkeyPatch, edgeoe: Callable[..., tuple[int, str, str]]
) -> None:
    refuse(monkeypatch, "int8-cpu", "int8-trt")
    code, out, err = edgeoe("export", exported, "--precision", "int8")
    assert (code, err.count("error")) == (0, 0)
    assert "student-int8-cpu-7bit.onnx: " in out
    reason = r"this student predicts the same class as in fp32 on 50.0 % of \d+ images, and 90 % are required."
    assert re.search(f"int8-trt not written: in int8-trt {reason}", out)
    assert out.count(f"edgeoe export {exported} --precision int8 --max-drop 0.01") == 1
    record = Run(exported).read(layout.EXPORT)
    assert [graph.precision for graph in record.graphs] == ["int8-cpu-7bit"]
    assert [(graph.precision, graph.agreement) for graph in record.refused] == [
        ("int8-cpu", 0.5),
        ("int8-trt", 0.5),
    ]
    assert [path.name for path in exported.glob("student-int8*")] == ["student-int8-cpu-7bit.onnx"]


def test_a_target_that_needs_a_refused_recipe_gets_the_reason(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "int8-cpu")
    run, int8 = Run(exported), replace(load_target("host-cpu"), precision="int8", measure=QUICK)
    export(run, precisions=["int8"])
    needs, other = (replace(int8, device=DeviceFacts(int8_dot=dot)) for dot in (True, False))
    why = r"target host-cpu needs .*student-int8-cpu\.onnx, which export refused: in int8-cpu .* --max-drop 0\.01\Z"
    for act in (lambda: build(run, needs), lambda: bundle(run, needs, out=tmp_path / "b.tar")):
        with pytest.raises(RunError, match=why):
            act()
    assert not (tmp_path / "b.tar").exists()
    build(run, other)


def test_export_fails_where_no_recipe_passes(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, *RECIPES)
    with pytest.raises(
        ExportError, match=r"int8-cpu .* int8-cpu-7bit .* int8-trt .* 50.0 % .*--calibration"
    ) as refused:
        export(Run(exported), precisions=["int8"])
    assert str(refused.value).count("--max-drop") == 1
    assert not list(exported.glob("student-int8*"))
    record = Run(exported).read(layout.EXPORT)
    assert (record.graphs, len(record.refused)) == ((), 3), "the fp32 graph is there, with what was tried"


def test_a_recipe_that_a_target_needs_must_pass(
    settings: CompressSettings, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "int8-cpu-7bit")
    fp32 = replace(load_target("host-cpu"), measure=QUICK)
    targets = [fp32, replace(fp32, name="mine", precision="int8", device=DeviceFacts(int8_dot=False))]
    with pytest.raises(ExportError, match=r"\Ain int8-cpu-7bit .* --max-drop 0\.01\Z"):
        deploy(settings, out=tmp_path / "run", targets=targets, test=pictures / "test")
    made = sorted(path.name for path in (tmp_path / "run").glob("student*.onnx"))
    assert made == ["student.onnx"], "recipes that no target needs are not even tried"


def test_fp16_that_strays_is_not_written(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.graph.precisions.FP16", replace(FP16, max_rel_error=1e-9))
    with pytest.raises(ExportError, match="in fp16 the logits of this student differ"):
        export(Run(exported), precisions=["fp16"])
    assert not (exported / "student-fp16.onnx").exists()


def test_the_command_line_tells_each_graph_and_the_most_sensitive_layers(
    exported: Path, edgeoe: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = edgeoe("export", exported, "--precision", "fp16,int8", "--sensitivity")
    assert code == 0
    assert "student-fp16.onnx" in out
    assert "student-int8-trt.onnx" in out
    assert "each layer alone in int8" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int4"], "--precision must be of fp32, fp16, int8. Got 'int4'."),
        (["--calibration", "best"], "--calibration must be one of minmax, percentile, entropy, mse. Got 'best'."),
        (["--max-drop", "2"], "--max-drop is a share of images, from 0 to 1. Got 2.0."),
    ],
)
def test_wrong_wishes_take_one_line(
    arguments: list[str], message: str, exported: Path, edgeoe: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = edgeoe("export", exported, *arguments)
    assert code == 2
    assert message in err
