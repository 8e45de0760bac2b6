"""The logic of the TensorRT backend, on a fake TensorRT (fake_tensorrt.py). Nothing here runs TensorRT itself."""

from __future__ import annotations

import ast
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backends.fake_device import FakeDevice
from made_up import QUICK
from onnx import TensorProto, helper

from edgeoe.backends.tensorrt import TensorRT, sidecar_path
from edgeoe.backends.tensorrt_bindings import BuildPhases
from edgeoe.doctor import examine
from edgeoe.errors import BackendError, RunError
from edgeoe.pipeline import build, validate
from edgeoe.run.directory import Run
from edgeoe.run.layout import TargetFiles
from edgeoe.stages import trust as trusting
from edgeoe.targets.profile import DeviceFacts, EngineSettings, Target
from edgeoe.vouching import seal

HERE = {"tensorrt": "10.3.0", "compute_capability": "8.7", "device": "Stub (nvgpu)", "cuda": "12.6"}
IMAGES = np.random.default_rng(0).normal(size=(7, 3, 4, 4)).astype(np.float32)


def target_with(**engine: Any) -> Target:
    return Target(name="orin", backend="tensorrt", engine=EngineSettings(**engine))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """(batch, 3, 4, 4) -> (batch, 48): twice the pixels."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 48])
    nodes = [helper.make_node("Add", ["images", "images"], ["x"]), helper.make_node("Flatten", ["x"], ["logits"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [logits]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(model, tmp_path / "student.onnx")
    return tmp_path / "student.onnx"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return tmp_path / "model.plan"


def config_of(device: FakeDevice) -> Any:
    """The builder's config of the last build."""
    return [call[1] for call in device.trt.state.calls if call[0] == "build"][-1]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 8), (2, 4), (4, 4)])
def test_any_number_of_images_is_answered(device: FakeDevice, graph: Path, plan: Path, low: int, high: int) -> None:
    target = replace(target_with(batch_min=low, batch_opt=low, batch_max=high))
    target = replace(target, measure=replace(target.measure, batch=low))
    TensorRT().build(graph, target, plan)
    with TensorRT().open(plan, target) as runner:
        for n in (1, 7, 2):
            np.testing.assert_array_equal(runner.infer(IMAGES[:n]), 2 * IMAGES[:n].reshape(n, -1))
    shapes = [call[1][0] for call in device.trt.state.calls if call[0] == "execute"]
    assert low <= min(shapes)
    assert max(shapes) <= high
    assert device.get("allocations") == device.get("contexts") == device.get("streams") == 0


def test_the_network_is_strongly_typed_and_the_stream_not_the_default(
    device: FakeDevice, graph: Path, plan: Path
) -> None:
    TensorRT().build(graph, target_with(), plan)
    assert ("create_network", 1 << 1) in device.trt.state.calls
    assert all(call[2] for call in device.trt.state.calls if call[0] == "execute")
    (runtime,) = (call[1] for call in device.trt.state.calls if call[0] == "deserialize")
    assert runtime.engine_host_code_allowed is False


def test_the_profiles_engine_reaches_the_builder(device: FakeDevice, graph: Path, plan: Path) -> None:
    device.trt.state.dla_cores = 2
    target = target_with(
        batch_max=8, batch_opt=4, workspace_mb=64, optimization_level=1, tf32=False, dla_core=1, gpu_fallback=True
    )
    settings = TensorRT().build(graph, target, plan)
    config, trt = config_of(device), device.trt
    assert config._pools == {trt.MemoryPoolType.WORKSPACE: 64 << 20}
    assert config._profile._shapes == {
        "input": "images", "min": (1, 3, 4, 4), "opt": (4, 3, 4, 4), "max": (8, 3, 4, 4),
    }  # fmt: skip
    assert (config.builder_optimization_level, config.DLA_core) == (1, 1)
    assert config.default_device_type is trt.DeviceType.DLA
    assert settings["flags"] == ("GPU_FALLBACK",)
    (runtime,) = (call[1] for call in trt.state.calls if call[0] == "deserialize")
    assert runtime.DLA_core == 1


def test_dla_without_a_dla_is_an_error(device: FakeDevice, graph: Path, plan: Path) -> None:
    with pytest.raises(BackendError, match=r"^dla_core = 0: TensorRT 10\.3\.0 finds 0 DLA cores here \(10\.7 was the "):
        TensorRT().build(graph, target_with(dla_core=0), plan)
    assert not plan.exists()


def test_a_level_that_this_version_lacks_is_an_error(device: FakeDevice, graph: Path, plan: Path) -> None:
    with pytest.raises(
        BackendError, match=r"= 'same_compute_capability': TensorRT 10\.3\.0 knows none, ampere_plus\.$"
    ):
        TensorRT().build(graph, target_with(hardware_compatibility="same_compute_capability"), plan)


def test_another_device_than_the_profiles_is_an_error(device: FakeDevice, graph: Path, plan: Path) -> None:
    target = replace(target_with(), device=DeviceFacts(compute_capability=8.9))
    with pytest.raises(
        BackendError, match=r"capability 8\.9, and this is Stub \(nvgpu\) with 8\.7\. A plan is built on"
    ):
        TensorRT().build(graph, target, plan)
    TensorRT().build(graph, replace(target, device=DeviceFacts(compute_capability=8.7)), plan)


def test_the_sidecar_holds_what_the_plan_is_tied_to(device: FakeDevice, graph: Path, plan: Path) -> None:
    TensorRT().build(graph, target_with(batch_max=2), plan)
    sidecar = json.loads(sidecar_path(plan).read_text(encoding="utf-8"))
    assert sidecar_path(plan).name == "model.plan.json"
    assert sidecar["tied_to"].items() >= HERE.items()
    assert sidecar["tied_to"].keys() - HERE.keys() == {"system", "driver"}
    assert sidecar["flags"] == ["TF32"]
    assert sidecar["profile"] == {"min": [1, 3, 4, 4], "opt": [1, 3, 4, 4], "max": [2, 3, 4, 4]}
    assert sidecar["engine"]["batch_max"] == 2
    assert len(sidecar["onnx_sha256"]) == len(sidecar["plan_sha256"]) == 64


@pytest.mark.parametrize(
    ("table", "key", "value", "told"),
    [
        ("tied_to", "tensorrt", "10.13.3.9", "it was built for tensorrt 10.13.3.9, and here is 10.3.0"),
        ("tied_to", "compute_capability", "8.9", "it was built for compute_capability 8.9, and here is 8.7"),
        ("tied_to", "device", "Orin", "it was built for device Orin, and here is Stub (nvgpu)"),
        ("tied_to", "cuda", "13.2", "it was built for cuda 13.2, and here is 12.6"),
        ("tied_to", "driver", "1", "it was built for driver 1, and here is "),
        ("tied_to", "system", "QNX", "it was built for system QNX, and here is "),
        ("engine", "batch_max", 4, "it was built with batch_max = 4, and the profile says 1"),
        ("engine", "tf32", False, "it was built with tf32 = False, and the profile says True"),
    ],
)
def test_a_plan_from_elsewhere_is_refused_with_the_field_that_differs(
    device: FakeDevice, graph: Path, plan: Path, table: str, key: str, value: object, told: str
) -> None:
    TensorRT().build(graph, target_with(), plan)
    sidecar = json.loads(sidecar_path(plan).read_text(encoding="utf-8"))
    sidecar.pop("seal")
    sidecar[table][key] = value
    sidecar["seal"] = seal(json.dumps(sidecar, sort_keys=True).encode())  # as this machine wrote it there
    sidecar_path(plan).write_text(json.dumps(sidecar), encoding="utf-8")
    device.trt.state.calls.clear()
    with pytest.raises(BackendError) as raised, TensorRT().open(plan, target_with()):
        pass
    assert str(raised.value).startswith(f"{plan}: can't load it: {told}")
    assert str(raised.value).endswith(". Build again: edgeoe build RUN --target orin")
    assert device.trt.state.calls == [], "nothing was deserialised"


def refused(device: FakeDevice, plan: Path) -> str:
    """The message with which `plan` is refused before anything of it is deserialised."""
    device.trt.state.calls.clear()
    with pytest.raises(BackendError) as raised, TensorRT().open(plan, target_with()):
        pass
    assert device.trt.state.calls == []
    return str(raised.value)


FOREIGN = (
    "model.plan.json was written by another machine or user, or changed. Build again: edgeoe build RUN --target orin"
)


def test_a_plan_of_another_machine_is_refused_until_somebody_vouches(
    device: FakeDevice, graph: Path, plan: Path, another_machine: Path
) -> None:
    TensorRT().build(graph, target_with(), plan)
    another_machine.with_name("secret").unlink()  # whoever has the same device, has not the same secret
    assert FOREIGN in refused(device, plan)
    assert f"edgeoe trust {plan}" in refused(device, plan)
    record = trusting.examine(plan)
    assert [Path(file.path).name for file in record.files] == ["model.plan", "model.plan.json"]
    assert not record.vouched
    trusting.trust(record)
    with TensorRT().open(plan, target_with()) as runner:
        assert runner.infer(IMAGES).shape == (7, 48)
    plan.write_bytes(plan.read_bytes() + b"more")
    assert "its sha256 is not the one in" in refused(device, plan)
    with pytest.raises(RunError, match=r"not the plan that model\.plan\.json was written for"):
        trusting.examine(plan)


@pytest.mark.parametrize("forged", ["", "0" * 64, "é", 1, None, []])
def test_a_sidecar_that_somebody_wrote_for_another_plan_is_refused(
    device: FakeDevice, graph: Path, plan: Path, forged: object
) -> None:
    TensorRT().build(graph, target_with(), plan)
    evil = b"evil" + plan.read_bytes()
    plan.write_bytes(evil)
    sidecar = json.loads(sidecar_path(plan).read_text(encoding="utf-8"))
    for seals in ({}, {"seal": forged}):  # the seal of the former plan, and others
        changed = {**sidecar, "plan_sha256": sha256(evil).hexdigest(), **seals}
        sidecar_path(plan).write_text(json.dumps(changed), encoding="utf-8")
        message = refused(device, plan)
        assert FOREIGN in message or "not a sidecar of this edgeoe" in message


def test_the_order_of_keys_and_spaces_break_no_seal(device: FakeDevice, graph: Path, plan: Path) -> None:
    TensorRT().build(graph, target_with(), plan)
    sidecar = json.loads(sidecar_path(plan).read_text(encoding="utf-8"))
    sidecar_path(plan).write_text(json.dumps(dict(reversed(sidecar.items()))), encoding="utf-8")
    with TensorRT().open(plan, target_with()) as runner:
        assert runner.infer(IMAGES).shape == (7, 48)


def test_a_compatible_plan_may_be_loaded_on_another_device(device: FakeDevice, graph: Path, plan: Path) -> None:
    target = target_with(hardware_compatibility="ampere_plus")
    TensorRT().build(graph, target, plan)
    device.set("minor", 9)
    with TensorRT().open(plan, target) as runner:
        assert runner.infer(IMAGES).shape == (7, 48)


def test_a_plan_without_a_sidecar_is_refused(device: FakeDevice, graph: Path, plan: Path) -> None:
    TensorRT().build(graph, target_with(), plan)
    sidecar_path(plan).unlink()
    device.trt.state.calls.clear()
    message = r"model\.plan: can't load it: a plan is code, and no model\.plan\.json beside it vouches for it\. Build"
    with pytest.raises(BackendError, match=message), TensorRT().open(plan, target_with()):
        pass
    assert device.trt.state.calls == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "plan_sha256": ""}'])
def test_a_sidecar_that_is_none_vouches_for_nothing(device: FakeDevice, graph: Path, plan: Path, text: str) -> None:
    TensorRT().build(graph, target_with(), plan)
    sidecar_path(plan).write_text(text, encoding="utf-8")
    with pytest.raises(BackendError, match="not a sidecar of this edgeoe"), TensorRT().open(plan, target_with()):
        pass


def test_another_plan_than_the_sidecars_is_not_deserialised(device: FakeDevice, graph: Path, plan: Path) -> None:
    TensorRT().build(graph, target_with(), plan)
    plan.write_bytes(plan.read_bytes() + b"\0")
    device.trt.state.calls.clear()
    with pytest.raises(BackendError, match="its sha256 is not the one in model"), TensorRT().open(plan, target_with()):
        pass
    assert device.trt.state.calls == []


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("Builder", "TensorRT can't start: [stub"),
        ("build", "TensorRT can't build this graph: [stub"),
        ("deserialize", "TensorRT can't load the plan: [stub"),
        ("context", "TensorRT can't run the plan: [stub"),
        ("set_input_shape", "TensorRT can't run it on (1, 3, 4, 4): [stub"),
        ("infer_shapes", "TensorRT can't run it on (1, 3, 4, 4): not in its profile"),
        ("set_tensor_address", "TensorRT refuses the memory for images: [stub"),
        ("execute", "TensorRT can't run it on (1, 3, 4, 4): [stub"),
        ("profile", "TensorRT refuses the optimisation profile {'min': (1, 3, 4, 4)"),
        ("dtype", "the plan must have one input of type float32. It has: images."),
    ],
)
def test_each_failure_is_told_with_what_tensorrt_logged(
    device: FakeDevice, graph: Path, plan: Path, call: str, told: str
) -> None:
    device.trt.state.fail = call
    with pytest.raises(BackendError) as raised:
        TensorRT().build(graph, target_with(), plan)
    assert str(raised.value).startswith(told)
    if "[stub" in told:
        assert str(raised.value).endswith("Error Code 4: out of stubs")
    assert list(plan.parent.iterdir()) == [graph], "and nothing is left"
    assert device.get("allocations") == device.get("contexts") == 0


def test_errors_of_an_earlier_build_are_not_told_again(device: FakeDevice, graph: Path, plan: Path) -> None:
    device.trt.state.fail = "build"
    with pytest.raises(BackendError, match="out of stubs"):
        TensorRT().build(graph, target_with(), plan)
    device.trt.state.message = "another"
    with pytest.raises(BackendError, match=r"this graph: another$"):
        TensorRT().build(graph, target_with(), plan)


def test_a_graph_that_is_none_has_the_parsers_reason_on_one_line(device: FakeDevice, graph: Path, plan: Path) -> None:
    graph.write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"^TensorRT can't read this graph: graph: Failed to parse the ONNX model: "):
        TensorRT().build(graph, target_with(), plan)


def test_a_machine_without_tensorrt_says_what_to_install(
    device: FakeDevice, graph: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BackendError, match=r"^TensorRT is not installed here .* apt-get install python3-libnvinfer, .*"
    ):
        TensorRT().build(graph, target_with(), plan)


@pytest.mark.parametrize(("version", "accepted"), [("8.5.2.2", False), ("10.2.0", False), ("11.4.0.106", True)])
def test_too_old_a_tensorrt_is_an_error(
    device: FakeDevice, graph: Path, plan: Path, version: str, accepted: bool
) -> None:
    device.trt.__version__ = version
    if accepted:
        TensorRT().build(graph, target_with(), plan)
        return
    with pytest.raises(BackendError, match=rf"^TensorRT {version} is too old: edgeoe needs 10\.3 or newer"):
        TensorRT().build(graph, target_with(), plan)


# The timing cache.


def test_timings_are_kept_in_a_file_of_device_and_versions(device: FakeDevice, graph: Path, plan: Path) -> None:
    TensorRT().build(graph, target_with(), plan)
    (file,) = device.timings.iterdir()
    assert file.name == "Stub-nvgpu-sm8.7-cuda12.6-tensorrt10.3.0.cache"
    assert json.loads(file.read_bytes())[1] == [f"layer of {graph.stat().st_size} bytes"]
    device.trt.__version__ = "10.13.3.9"
    TensorRT().build(graph, target_with(), plan)
    assert len(list(device.timings.iterdir())) == 2


def test_timings_of_earlier_builds_are_read_and_kept(device: FakeDevice, graph: Path, plan: Path) -> None:
    TensorRT().build(graph, target_with(), plan)
    (file,) = device.timings.iterdir()
    file.write_text('["device A", ["an earlier layer"]]', encoding="utf-8")
    TensorRT().build(graph, target_with(), plan)
    assert set(json.loads(file.read_bytes())[1]) == {"an earlier layer", f"layer of {graph.stat().st_size} bytes"}


@pytest.mark.parametrize("text", ["damaged", '["device B", ["of another device"]]'])
def test_timings_that_do_not_fit_are_begun_anew(
    device: FakeDevice, graph: Path, plan: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    TensorRT().build(graph, target_with(), plan)
    (file,) = device.timings.iterdir()
    file.write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        TensorRT().build(graph, target_with(), plan)
    assert json.loads(file.read_bytes())[1] == [f"layer of {graph.stat().st_size} bytes"]
    assert "TensorRT refuses this timing cache" in caplog.text


def test_without_a_timing_cache_none_is_written(device: FakeDevice, graph: Path, plan: Path) -> None:
    TensorRT().build(graph, target_with(timing_cache=False), plan)
    assert not device.timings.exists()
    assert config_of(device)._timings is None


def test_a_folder_that_takes_no_timings_stops_no_build(
    device: FakeDevice, graph: Path, plan: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device.timings.parent.parent.mkdir(exist_ok=True)
    device.timings.parent.write_text("a file where a folder should be", encoding="utf-8")
    TensorRT().build(graph, target_with(), plan)
    assert plan.exists()
    assert "the timing cache can't be written" in caplog.text


# Progress.


@contextmanager
def counted(steps: list[str], title: str, total: int) -> Iterator[Callable[[], None]]:
    steps.append(f"{title} {total}")
    yield lambda: steps.append("+")


def test_a_build_shows_one_bar_to_its_end(device: FakeDevice, graph: Path, plan: Path) -> None:
    steps: list[str] = []
    TensorRT().build(graph, target_with(), plan, progress=lambda title, total: counted(steps, title, total))
    assert steps == ["Building the engine 100", *["+"] * 100]


def test_an_interrupt_cancels_the_build_and_is_raised_after_it(device: FakeDevice, graph: Path, plan: Path) -> None:
    @contextmanager
    def interrupted(title: str, total: int) -> Iterator[Callable[[], None]]:
        def advance() -> None:
            raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt):
        TensorRT().build(graph, target_with(), plan, progress=interrupted)
    assert not plan.exists()


def test_phases_within_a_phase_share_its_step() -> None:
    shown: list[int] = []
    phases = BuildPhases(lambda: shown.append(1))
    phases.start("whole", None, 2)
    phases.start("part", "whole", 4)
    for step, expected in enumerate([12, 25, 37, 50]):
        assert phases.step("part", step)
        assert len(shown) == expected
    phases.finish("part")
    assert phases.step("whole", 0)
    assert len(shown) == 50
    assert phases.step("whole", 1)
    assert len(shown) == 100


def test_phases_that_never_began_or_have_no_steps_do_no_harm() -> None:
    phases = BuildPhases(lambda: None)
    assert phases.step("unheard of", 3)
    phases.start("empty", None, 0)
    assert phases.step("empty", 0)
    phases.finish("unheard of")
    assert phases.error is None


# The line, and what a device needs to have installed.


def test_a_run_keeps_plan_and_sidecar_and_is_measured(device: FakeDevice, exported: Path, pictures: Path) -> None:
    target, run = replace(target_with(batch_max=8), measure=QUICK), Run.open(exported)
    steps: list[str] = []
    artifact = build(run, target, progress=lambda title, total: counted(steps, title, total))
    assert (artifact.artifact, artifact.versions["tensorrt"]) == ("targets/orin/model.plan", "10.3.0")
    assert steps[0] == "Building the engine 100"
    measurement = validate(run, target, test=pictures / "test").measurement
    assert measurement.golden_agreement == 1.0
    assert measurement.settings["tied_to"]["compute_capability"] == "8.7"
    assert run.file(TargetFiles("orin").artifact("model.plan.json")).is_file(), "its hash is noted"
    with pytest.raises(BackendError, match="batch_max = 8, and the profile says 4"):
        validate(run, replace(target, engine=EngineSettings(batch_max=4)), test=pictures / "test")


def test_doctor_says_what_tensorrt_is_here(device: FakeDevice) -> None:
    (finding,) = (found for found in examine() if found.what == "TensorRT targets")
    assert finding.here
    assert finding.detail == "TensorRT 10.3.0 on Stub (nvgpu), compute capability 8.7, CUDA 12.6"
    device.set("no_device", 1)
    (finding,) = (found for found in examine() if found.what == "TensorRT targets")
    assert not finding.here
    assert "no CUDA-capable device" in finding.detail


def test_the_bindings_are_imported_nowhere_else() -> None:
    package = Path(sys.modules["edgeoe"].__file__ or "").parent
    files = list(package.rglob("*.py"))
    assert len(files) > 40
    importing = {path.name for path in files for name in _imports(path) if name.split(".")[0] == "tensorrt"}
    assert importing == {"tensorrt_bindings.py", "tensorrt_engine.py"}, "and there for type checkers alone"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
