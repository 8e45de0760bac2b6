"""A student goes to disk as plain data and comes back the same."""

import copy
import json
import os
import py_compile
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from layers import layer_of
from safetensors.torch import save_model
from torch import Tensor, nn

from edgeoe.codec import from_json, to_json
from edgeoe.errors import PruningError, RunError, TeacherError
from edgeoe.models.checkpoint import apply_plan, load_student, plan_between, save_student
from edgeoe.models.teacher import TeacherSource
from edgeoe.pruning.prune import Pruned, drop_blocks
from edgeoe.records.student import LayerChange
from edgeoe.run import layout
from edgeoe.run.directory import Run

Network = Callable[[str], nn.Module]
Prune = Callable[..., Pruned]
Save = Callable[[str], Run]
ShapeOf = Callable[[str], tuple[int, int, int]]


def unpruned(model: nn.Module) -> Pruned:
    """`model` as it is, as what a method hands back."""
    return Pruned(model, removed={}, groups=(), macs=1, macs_kept=1.0, params_kept=1.0)


def images(shape: tuple[int, int, int] = (3, 16, 16)) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def saved(shape_of: ShapeOf, pruned: Prune, teacher_file: Path, tmp_path: Path) -> Save:
    """`saved(name)`: a run with that network, pruned; networks.py is a copy of the user's that may go."""

    def save(name: str) -> Run:
        (tmp_path / "mine").mkdir()
        file = shutil.copy(teacher_file, tmp_path / "mine" / "mine.py")
        source = TeacherSource.parse(name if ":" in name else f"{file}:{name}")
        run = Run(tmp_path / "run")
        save_student(run, pruned(name), source, outputs=3, x=images(shape_of(name)))
        return run

    return save


@pytest.mark.parametrize(
    "name",
    [
        *("residual", "chain", "scaled", "torchvision:mobilenet_v2", "torchvision:resnet18", "torchvision:mnasnet0_5"),
        *("timm:test_efficientnet", "timm:test_vit"),
    ],
)
def test_a_student_comes_back_bit_for_bit(name: str, saved: Save, pruned: Prune, shape_of: ShapeOf) -> None:
    student, loaded, x = pruned(name).model, load_student(saved(name)), images(shape_of(name))
    assert torch.equal(loaded(x), student(x))
    assert loaded.state_dict().keys() == student.state_dict().keys()
    assert not any(module.training for module in loaded.modules())


def test_the_plan_is_plain_json_with_only_what_changed(saved: Save, pruned: Prune) -> None:
    run, removed = saved("chain"), pruned("chain").removed
    plan = json.loads((run.path / "student" / "plan.json").read_text())
    assert plan["teacher"] == "mine.py:chain"
    assert plan["outputs"] == 3
    assert set(plan["layers"]) == {"0.0", "0.1", "2.0", "2.1", "4.0", "4.1", "8"}
    left = 8 - len(removed["0.0"])
    assert plan["layers"]["0.0"] == {
        "identity": False,
        "attributes": {"out_channels": left},
        "tensors": {"weight": [left, 3, 3, 3]},
    }
    assert plan["layers"]["0.1"] == {
        "identity": False,
        "attributes": {"num_features": left},
        "tensors": {key: [left] for key in ("weight", "bias", "running_mean", "running_var")},
    }
    assert set(plan["layers"]["8"]["tensors"]) == {"weight"}, "its bias kept its shape"


def test_an_unchanged_student_has_an_empty_plan(network: Network) -> None:
    assert plan_between(network("residual"), copy.deepcopy(network("residual"))) == {}


def test_training_mode_is_no_change(network: Network) -> None:
    assert plan_between(network("residual"), copy.deepcopy(network("residual")).train()) == {}


@pytest.mark.parametrize("name", ["residual", "scaled", "timm:test_efficientnet"])
def test_a_plan_survives_json_and_makes_every_shape(name: str, network: Network, pruned: Prune) -> None:
    plan = json.loads(json.dumps(to_json(plan_between(network(name), pruned(name).model))))
    rebuilt = network(name)
    apply_plan(rebuilt, {layer: from_json(LayerChange, change) for layer, change in plan.items()})
    shapes = {key: value.shape for key, value in pruned(name).model.state_dict().items()}
    assert {key: value.shape for key, value in rebuilt.state_dict().items()} == shapes
    assert plan_between(rebuilt, pruned(name).model) == {}


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("stages", ["early.1", "late.0"]), ("stages", ["late.0.one"]), ("torchvision:resnet18", ["layer1.0", "layer4.1"])],
)
def test_a_student_without_blocks_comes_back_bit_for_bit(
    name: str, blocks: list[str], network: Network, shape_of: ShapeOf, teacher_file: Path, tmp_path: Path
) -> None:
    dropped = drop_blocks(network(name), blocks, shape=shape_of(name))
    student = dropped.model
    source = TeacherSource.parse(name if ":" in name else f"{teacher_file}:{name}")
    run, x = Run(tmp_path / "run"), images(shape_of(name))
    save_student(run, dropped, source, outputs=3, x=x)
    plan = run.read(layout.PLAN)
    assert plan.layers == {block: LayerChange(identity=True) for block in blocks}
    assert plan.dropped == tuple(blocks)
    loaded = load_student(run)
    assert torch.equal(loaded(x), student(x))
    assert loaded.state_dict().keys() == student.state_dict().keys()
    assert not any(module.training for module in loaded.modules())


def test_an_identity_that_was_one_before_is_no_change() -> None:
    made = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    assert plan_between(made, copy.deepcopy(made)) == {}


@pytest.mark.parametrize("name", ["weights.safetensors", "plan.json", "code/mine.py"])
def test_a_changed_file_is_refused(name: str, saved: Save) -> None:
    run = saved("chain")
    with (run.path / "student" / name).open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(RunError, match=rf"{name}: changed since edgeoe wrote it. Make it again: edgeoe compress"):
        load_student(run)


@pytest.mark.parametrize("name", ["weights.safetensors", "plan.json", "code/mine.py"])
def test_a_missing_file_is_named(name: str, saved: Save) -> None:
    run = saved("chain")
    (run.path / "student" / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: missing. Make it: edgeoe compress"):
        load_student(run)


@pytest.mark.parametrize("content", [b"no safetensors", None], ids=["damaged", "another network's"])
def test_weights_that_do_not_fit_the_plan_are_refused(content: bytes | None, saved: Save, network: Network) -> None:
    run = saved("chain")

    def write(path: Path) -> None:
        save_model(network("chain"), str(path)) if content is None else path.write_bytes(content)

    run.write(layout.WEIGHTS, write)
    with pytest.raises(RunError, match=r"weights\.safetensors: does not fit .*plan\.json"):
        load_student(run)


def test_a_run_stands_alone(saved: Save, pruned: Prune, tmp_path: Path) -> None:
    run = saved("residual")
    shutil.rmtree(tmp_path / "mine")
    moved = Path(shutil.move(run.path, tmp_path / "elsewhere"))
    loaded = load_student(Run(moved))
    assert torch.equal(loaded(images()), pruned("residual").model(images()))


def test_student_holds_no_pickle(saved: Save) -> None:
    folder = saved("residual").path / "student"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [path.name for path in files] == ["mine.py", "plan.json", "weights.safetensors"]
    for path in files:
        start = path.read_bytes()[:2]
        assert start not in (b"PK", b"\x80\x02", b"\x80\x04"), "a zip of torch.save, or a bare pickle"


def test_loading_writes_nothing_into_the_run(saved: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    run = saved("residual")
    before = sorted(path for path in run.path.rglob("*"))
    load_student(run)
    assert sorted(path for path in run.path.rglob("*")) == before


def test_only_the_teacher_file_that_the_manifest_vouches_for_is_run(saved: Save, pruned: Prune) -> None:
    """Python by itself would run a compiled file in __pycache__ of another source with the same time and size."""
    run = saved("chain")
    copied = run.path / "student" / "code" / "mine.py"
    good, when = copied.read_bytes(), copied.stat().st_mtime_ns
    other = good.replace(b"nn.ReLU(), conv(8, 16)", b"nn.GELU(), conv(8, 16)")
    assert len(other) == len(good)
    copied.write_bytes(other)
    os.utime(copied, ns=(when, when))
    py_compile.compile(str(copied), doraise=True)
    copied.write_bytes(good)
    os.utime(copied, ns=(when, when))
    assert torch.equal(load_student(run)(images()), pruned("chain").model(images()))


def test_an_architecture_that_is_gone_is_a_teacher_error(saved: Save) -> None:
    run = saved("chain")
    run.save(layout.PLAN, replace(run.read(layout.PLAN), teacher="timm:resnet10x", code=None))
    with pytest.raises(TeacherError, match="Did you mean 'resnet10t'"):
        load_student(run)


def test_a_student_that_answers_every_image_alike_is_not_written(
    network: Network, teacher_file: Path, tmp_path: Path
) -> None:
    student, run = copy.deepcopy(network("stages")), Run(tmp_path / "run")
    nn.init.zeros_(layer_of(student, "head").weight)
    with pytest.raises(PruningError, match="answers every image alike"):
        save_student(run, unpruned(student), TeacherSource.parse(f"{teacher_file}:stages"), outputs=3, x=images())
    assert not (run.path / "student").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_student_whose_outputs_are_no_numbers_is_told_apart_from_one_that_comes_back_different(
    value: float, network: Network, teacher_file: Path, tmp_path: Path
) -> None:
    student, run = copy.deepcopy(network("stages")), Run(tmp_path / "run")
    nn.init.constant_(layer_of(student, "head").weight, value)
    with pytest.raises(PruningError, match=r"outputs are not finite: its weights have diverged\. Try a smaller --lr"):
        save_student(run, unpruned(student), TeacherSource.parse(f"{teacher_file}:stages"), outputs=3, x=images())
    assert not (run.path / "student").exists()


def test_a_student_with_huge_outputs_is_compared_at_their_scale(
    network: Network, teacher_file: Path, tmp_path: Path
) -> None:
    student, run = copy.deepcopy(network("stages")), Run(tmp_path / "run")
    layer_of(student, "head").weight.mul_(1e20)
    save_student(run, unpruned(student), TeacherSource.parse(f"{teacher_file}:stages"), outputs=3, x=images())


def test_a_forward_that_is_random_is_told_with_figures(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x.mean((2, 3))) + torch.rand(3)\n\n\ndef network():\n    return Net(3, 3)\n"
    )
    source = TeacherSource.parse(f"{tmp_path}/noisy.py:network")
    said = r"noisy\.py:network: the pruned network, rebuilt .*outputs differ by 0\.\d+, the largest is .*forward random"
    with pytest.raises(TeacherError, match=said):
        save_student(Run(tmp_path / "run"), unpruned(source.build(3).eval()), source, outputs=3, x=images())


def test_a_plan_of_another_format_is_refused(saved: Save) -> None:
    run = saved("chain")
    run.save(replace(layout.PLAN, format=1), run.read(layout.PLAN))
    with pytest.raises(RunError, match=r"plan\.json: not in the format of this version of edgeoe \(format must be"):
        load_student(run)


def test_a_file_that_nobody_vouches_for_is_not_imported(saved: Save, tmp_path: Path) -> None:
    run = saved("chain")
    (run.path / "student" / "code" / "torch").mkdir()
    (run.path / "student" / "code" / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    (run.path / "student" / "code" / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(RunError, match="not of the source that this machine vouches for"):
        load_student(run)


class Lazy(nn.Module):
    """Keeps a table that its forward fits to the image, and that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.register_buffer("table", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.table = torch.ones(x.shape[2:])
        return self.head((x * self.table).mean((2, 3)))


def test_what_a_forward_leaves_behind_is_no_part_of_the_plan() -> None:
    student = Lazy()
    student(images())
    plan = plan_between(Lazy(), student)
    assert plan == {}
    apply_plan(again := Lazy(), plan)
    again.load_state_dict(student.state_dict())
    assert torch.equal(again(images()), student(images()))
