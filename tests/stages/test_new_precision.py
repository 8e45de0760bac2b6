"""A precision that edgeoe has never heard of: one file and one row, and every command knows it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from distributions import write_distribution
from made_up import QUICK_PROFILE

from edgeoe.errors import ExportError, RunError
from edgeoe.pipeline import build, bundle, export, validate
from edgeoe.run.directory import Run
from edgeoe.targets.load import check_target, load_target

SOURCE = '''
"""Weights in bfloat16, which are half as large; arithmetic in fp32."""
import numpy as np

from edgeoe.graph.precision import Draft, Precision


def rounded(weights):
    bits = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def writer(source):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def write(variant):
        graph = onnx.ModelProto()
        graph.CopyFrom(source.graph)
        floats = [one for one in graph.graph.initializer if one.data_type == TensorProto.FLOAT]
        for tensor in [one for one in floats if len(one.dims) > 1]:
            name, bits = tensor.name, rounded(numpy_helper.to_array(tensor))
            small = helper.make_tensor(name + "_bf16", TensorProto.BFLOAT16, tensor.dims, bits.tobytes(), raw=True)
            tensor.CopyFrom(small)
            graph.graph.node.insert(0, helper.make_node("Cast", [small.name], [name], to=TensorProto.FLOAT))
        return Draft(graph=graph)

    return write


BF16 = Precision(
    variants=("bf16-weights",),
    writer=writer,
    max_rel_error=0.05,
    refusal="some of its weights need more digits.",
    compute_capability=8.0,
    on_npu=False,
)
'''


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with the distribution; the working folder has a profile in that precision."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_distribution(folder, "bfloat_weights", SOURCE, precisions={"bf16": "bfloat_weights:BF16"})
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "bfloat_weights", raising=False)
    monkeypatch.chdir(tmp_path)
    write_profile('precision = "bf16"')
    return folder


def write_profile(lines: str) -> None:
    Path("targets").mkdir(exist_ok=True)
    Path("targets/small.toml").write_text(f"{lines}\n{QUICK_PROFILE}", encoding="utf-8")


def test_profiles_may_name_it_where_the_device_computes_it() -> None:
    assert load_target("small").precision == "bf16"
    assert check_target("small") == []
    write_profile('precision = "bf16"\ndevice = {compute_capability = 7.5, gpu = "T4"}')
    assert check_target("small") == [
        "targets/small.toml:1: precision: bf16 needs compute capability 8.0 or higher, and this device has 7.5."
    ]
    write_profile('precision = "bf61"')
    assert check_target("small") == [
        "targets/small.toml:1: precision must be one of fp32, fp16, int8, bf16. Got 'bf61'."
    ]
    Path("targets/npu.toml").write_text(
        'backend = "openvino"\nprecision = "bf16"\n[runtime]\nunit = "npu"\n', encoding="utf-8"
    )
    assert check_target("npu") == ["targets/npu.toml:4: unit: an NPU computes fp16 and int8, and precision is bf16."]


def test_it_is_exported_built_and_validated(
    exported: Path, pictures: Path, edgeoe: Callable[..., tuple[int, str, str]]
) -> None:
    run, target = Run.open(exported), load_target("small")
    with pytest.raises(RunError, match=r"student-bf16-weights\.onnx.*edgeoe export .* --precision bf16"):
        build(run, target)
    code, out, _ = edgeoe("export", exported, "--precision", "fp16,bf16")
    assert code == 0
    assert "student-bf16-weights.onnx" in out
    types = [one.data_type for one in onnx.load(exported / "student-bf16-weights.onnx").graph.initializer]
    assert onnx.TensorProto.BFLOAT16 in types
    sizes = [(exported / name).stat().st_size for name in ("student-bf16-weights.onnx", "student.onnx")]
    assert sizes[0] < 0.75 * sizes[1]
    assert build(run, target).precision == "bf16"
    validation = validate(run, target, test=pictures / "test")
    assert validation.verdict.outcome == "passed"
    assert bundle(run, target, out=Path("b.tar")).precision == "bf16"
    export(run)
    assert not (exported / "student-bf16-weights.onnx").exists(), "the graphs of an earlier student are forgotten"


def test_a_graph_that_is_too_far_off_is_refused(site: Path, exported: Path) -> None:
    (site / "bfloat_weights.py").write_text(SOURCE.replace("0.05", "1e-9"), encoding="utf-8")
    run = Run.open(exported)
    with pytest.raises(ExportError, match=r"^in bf16-weights the logits of this student differ .* need more digits\.$"):
        export(run, precisions=["bf16"])
    with pytest.raises(RunError, match=r"which export refused: in bf16-weights .* need more digits\.$"):
        build(run, load_target("small"))


def test_a_wrong_name_on_the_command_line_is_answered_with_it(
    exported: Path, edgeoe: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = edgeoe("export", exported, "--precision", "int4")
    assert code == 2
    assert "--precision must be of fp32, fp16, int8, bf16. Got 'int4'." in err


def test_the_help_names_it(site: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from edgeoe.cli import main; main(['export', '--help'])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert "fp32,fp16,int8,bf16" in ran.stdout
