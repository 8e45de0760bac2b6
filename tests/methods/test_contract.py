"""What every method must do, whichever it is."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from edgeoe.data.pool import load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.methods import Compressed, cross_distillation
from edgeoe.methods.cross_distillation import choose_channels
from edgeoe.models.checkpoint import apply_plan, plan_between
from edgeoe.models.structure import read_structure
from edgeoe.pruning.prune import count_macs, count_params, drop_blocks
from edgeoe.registry import METHODS, resolve
from edgeoe.settings import CompressSettings, OESettings
from edgeoe.training.fabric import new_fabric
from edgeoe.training.workbench import Workbench

SUITABLE: dict[str, dict[str, Any]] = {  # settings that a method insists on, or that make it quick
    "none": {"keep_macs": None},
    "practise": {"recovery_steps": 2},
}
TEACHERS = {"practise": "stages"}  # it needs residual blocks that are modules
PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
SOLVING, TRAINING = ("fskd", "cd"), ("kd", "cd", "mir", "practise")  # cd does both
Network = Callable[[str], nn.Module]

every_method = pytest.mark.parametrize("method", sorted(METHODS))


@pytest.fixture(autouse=True)
def quick_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """cd's descent is what takes its time; 30 steps of it choose too."""
    monkeypatch.setattr(cross_distillation, "choose_channels", partial(choose_channels, iterations=30))


@pytest.fixture(scope="module")
def teacher_for(network: Network) -> Callable[[str], nn.Module]:
    """`teacher_for(method)`: one that the method can do something with."""
    return lambda method: network(TEACHERS.get(method, "residual"))


def compressed(method: str, teacher: nn.Module, settings: CompressSettings, *, oe: bool, **plan: Any) -> Compressed:
    """What `method` makes of `teacher`, with OOD images or without. plan: settings of OE."""
    settings = replace(settings, method=method, oe=oe, **SUITABLE.get(method, {}))
    assert settings.ood is not None
    torch.manual_seed(settings.seed)

    def clock(models: Sequence[nn.Module]) -> list[float]:
        return [count_macs(model, PREPROCESS.shape) / 1e6 for model in models]

    bench = Workbench(
        teacher,
        load_samples(find_samples(settings.samples), PREPROCESS),
        load_pool(settings.ood, PREPROCESS) if oe else None,
        plan=OESettings(**{"holdout": 0.0, **plan}) if oe else None,
        fabric=new_fabric(settings),
        batch=settings.batch,
        padding=2,
        seed=settings.seed,
        clock=clock,
    )
    return resolve(METHODS, method, kind="method")(settings).compress(teacher, bench)  # type: ignore[no-any-return]


def coarseness(method: str, teacher: nn.Module) -> float:
    """How far from the MACs asked for a method may stay: whole blocks are as fine as practise can cut."""
    if method != "practise":
        return 0.02
    blocks = [block.name for block in read_structure(teacher, PREPROCESS.shape).blocks]
    whole = count_macs(teacher, PREPROCESS.shape)
    without = [
        count_macs(drop_blocks(teacher, [name], shape=PREPROCESS.shape).model, PREPROCESS.shape) for name in blocks
    ]
    return max(1 - macs / whole for macs in without) / 2


def assert_same(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def differ(one: nn.Module, other: nn.Module) -> bool:
    x = torch.randn(4, *PREPROCESS.shape, generator=torch.Generator().manual_seed(0))
    return not torch.allclose(one(x), other(x), rtol=1e-5, atol=1e-6)


@every_method
@pytest.mark.parametrize("oe", [True, False], ids=["with OE", "without OE"])
def test_it_makes_a_student_with_the_macs_asked_for(
    method: str, oe: bool, teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    teacher = teacher_for(method)
    made = compressed(method, teacher, settings, oe=oe)
    student, keep = made.pruned.model, 1.0 if method == "none" else settings.goal.share
    macs = count_macs(student, PREPROCESS.shape) / count_macs(teacher, PREPROCESS.shape)
    assert abs(macs - keep) <= coarseness(method, teacher)
    assert made.pruned.macs_kept == pytest.approx(macs)
    assert made.pruned.params_kept == pytest.approx(count_params(student) / count_params(teacher))
    assert not any(module.training for module in student.modules())
    assert {tensor.device.type for tensor in student.state_dict().values()} == {"cpu"}
    logits = student(torch.randn(4, *PREPROCESS.shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 3)
    assert logits.isfinite().all()
    assert 0 <= made.fit.best_step <= made.fit.steps <= settings.steps
    assert (made.fit.steps > 0) == (method in TRAINING)
    assert bool(made.pruned.dropped) == (method == "practise")
    assert bool(made.pruned.removed) == (method not in ("practise", "none"))


def hooks_of(model: nn.Module) -> list[object]:
    return [h for m in model.modules() for h in [*m._forward_hooks.values(), *m._forward_pre_hooks.values()]]


@every_method
def test_it_leaves_the_teacher_as_it_was(
    method: str, teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    teacher = teacher_for(method)
    before, hooks = copy.deepcopy(teacher.state_dict()), hooks_of(teacher)
    student = compressed(method, teacher, settings, oe=True).pruned.model
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert hooks_of(teacher) == hooks
    after = teacher.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    own = {tensor.data_ptr() for tensor in after.values()}
    assert not own & {tensor.data_ptr() for tensor in student.state_dict().values()}, "student and teacher share memory"


@every_method
def test_a_seed_makes_the_same_student_again(
    method: str, teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    first, again = (compressed(method, teacher_for(method), settings, oe=True).pruned.model for _ in range(2))
    assert_same(first, again)


@every_method
def test_a_plan_and_the_weights_are_all_of_the_student(
    method: str, teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    """No further hook, no parametrization, no new module: what is stored is what was made."""
    teacher = teacher_for(method)
    student = compressed(method, teacher, settings, oe=True).pruned.model
    rebuilt = copy.deepcopy(teacher)
    apply_plan(rebuilt, plan_between(teacher, student))
    rebuilt.load_state_dict(student.state_dict())
    x = torch.randn(4, *PREPROCESS.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rebuilt(x), student(x))
    assert hooks_of(student) == hooks_of(teacher)


@pytest.mark.parametrize("method", TRAINING)
def test_methods_that_train_differ_with_the_seed_and_with_oe(
    method: str, teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    base, other, plain = (
        compressed(method, teacher_for(method), replace(settings, seed=seed), oe=oe).pruned.model.state_dict()
        for seed, oe in ((0, True), (1, True), (0, False))
    )
    for found in (other, plain):
        assert any(not torch.equal(base[key], found[key]) for key in base if base[key].shape == found[key].shape)


def test_without_a_gradient_the_seed_changes_nothing(
    teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    students = [
        compressed("fskd", teacher_for("fskd"), replace(settings, seed=seed), oe=True).pruned.model for seed in (0, 1)
    ]
    assert not differ(*students)


@pytest.mark.parametrize("method", SOLVING)
def test_ood_images_change_what_solving_finds_unless_they_are_left_out(
    method: str, teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    everything = {"in_fine_tuning": False, "class_weights": False}
    with_ood, without, plain = (
        compressed(method, teacher_for(method), settings, oe=oe, **plan).pruned.model
        for oe, plan in (
            (True, everything),
            (True, {**everything, "in_compression": False}),
            (False, {}),
        )
    )
    assert differ(with_ood, without)
    assert not differ(without, plain), "with even weights, no OOD images are the plain method"


def test_class_weights_change_what_solving_finds(
    teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    weighted, even = (
        compressed("fskd", teacher_for("fskd"), settings, oe=True, class_weights=on, in_compression=False).pruned.model
        for on in (True, False)
    )
    assert differ(weighted, even)


def test_every_switch_off_is_the_plain_method(
    teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    off = {"class_weights": False, "in_compression": False, "in_fine_tuning": False, "regulariser": 0.0}
    nothing = compressed("kd", teacher_for("kd"), settings, oe=True, **off).pruned.model
    assert_same(nothing, compressed("kd", teacher_for("kd"), settings, oe=False).pruned.model)


def test_mir_hands_back_the_teachers_head(network: Network, settings: CompressSettings) -> None:
    teacher = network("stages")
    student = compressed("mir", teacher, settings, oe=True).pruned.model
    for key in ("head.weight", "head.bias"):
        assert torch.equal(student.state_dict()[key], teacher.state_dict()[key])
    assert not torch.equal(student.state_dict()["stem.0.weight"], teacher.state_dict()["stem.0.weight"])


@pytest.mark.parametrize("method", ["kd", "fskd", "cd", "mir"])
def test_measured_widths_are_not_the_same_share_everywhere(
    method: str, network: Network, settings: CompressSettings
) -> None:
    asked = replace(settings, widths="measured", keep_macs=0.6)
    made = compressed(method, network("stages"), asked, oe=True).pruned
    assert made.macs_kept == pytest.approx(0.6, rel=0.02)
    groups = {group.name: group for group in made.groups if not group.refused}
    assert all(len(group.sensitivity) == len(group.order) - 1 for group in groups.values())
    shares = [len(made.removed.get(name, ())) / len(group.order) for name, group in groups.items()]
    assert max(shares) - min(shares) > 1 / 8


def mobile() -> nn.Module:
    """MobileNetV3 as torchvision builds it, with four small blocks: squeeze-excite, hard-swish, two shortcuts."""
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    torch.manual_seed(0)
    rows = [  # channels in, kernel, expanded, out, squeeze-excite, activation, stride
        *((8, 3, 8, 8, True, "RE", 1), (8, 3, 24, 16, False, "RE", 2)),
        *((16, 3, 32, 16, False, "RE", 1), (16, 5, 32, 16, True, "HS", 1)),
    ]
    blocks = [InvertedResidualConfig(*row, dilation=1, width_mult=1.0) for row in rows]
    return MobileNetV3(blocks, last_channel=32, num_classes=3).eval().requires_grad_(False)


@every_method
def test_a_published_architecture_can_be_compressed(method: str, settings: CompressSettings) -> None:
    teacher, quick = mobile(), replace(settings, steps=2, keep_macs=0.8)
    made = compressed(method, teacher, quick, oe=False)
    student, keep = made.pruned.model, 1.0 if method == "none" else 0.8
    assert abs(made.pruned.macs_kept - keep) <= coarseness(method, teacher)
    assert (count_macs(student, PREPROCESS.shape) < count_macs(teacher, PREPROCESS.shape)) == (method != "none")
    assert student(torch.randn(2, *PREPROCESS.shape)).isfinite().all()


@pytest.mark.parametrize(
    ("method", "widths"),
    [
        *((method, widths) for method in ("kd", "fskd", "cd") for widths in ("uniform", "measured")),
        ("practise", "uniform"),
    ],
)
def test_a_transformer_can_be_compressed(method: str, widths: Any, settings: CompressSettings) -> None:
    """Layer norms lie between its blocks, so that practise finds no layer to put an adaptor beside."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    teacher = VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    )
    teacher.eval().requires_grad_(False)
    made = compressed(method, teacher, replace(settings, steps=2, keep_macs=0.7, widths=widths), oe=True)
    assert made.pruned.macs_kept < 1
    assert made.pruned.model(torch.randn(2, 3, 16, 16)).isfinite().all()


def test_a_clock_is_asked_for_by_the_method_that_needs_one(
    teacher_for: Callable[[str], nn.Module], settings: CompressSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []
    latency_ms = Workbench.latency_ms

    def noting(self: Workbench, models: Sequence[nn.Module]) -> list[float]:
        timed.append(len(models))
        return latency_ms(self, models)

    monkeypatch.setattr(Workbench, "latency_ms", noting)
    for method in sorted(METHODS):
        compressed(method, teacher_for(method), replace(settings, steps=2), oe=False)
    assert timed == [3], "the teacher, and without each of two kinds of blocks"
