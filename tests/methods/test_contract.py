"""What every method must do, whichever it is."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from meters import MacsMeter
from torch import nn

from edgeoe.data.pool import load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.method import load_method
from edgeoe.methods import Bench, Compressed, Cut, Fit, compress_with, load_cut, load_recovery
from edgeoe.methods.cuts import crossed_channels
from edgeoe.methods.cuts.channels import ChannelsBeforeFeatures, find_groups
from edgeoe.methods.cuts.crossed_channels import choose_channels
from edgeoe.models.checkpoint import apply_plan, plan_between
from edgeoe.models.observation import capture
from edgeoe.models.structure import read_structure
from edgeoe.pruning.prune import Pruned, count_macs, count_params, drop_blocks, prune_channels
from edgeoe.records.budget import Limit
from edgeoe.registry import METHODS
from edgeoe.settings import CompressSettings, OESettings
from edgeoe.training.fabric import new_fabric
from edgeoe.training.workbench import Workbench

SUITABLE: dict[str, dict[str, Any]] = {  # settings that a method insists on, or that make it quick
    "none": {"keep_macs": None},
    "practise": {"options": {"recovery_steps": 2}},
}
TEACHERS = {"practise": "stages"}  # it needs residual blocks that are modules
PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
SOLVING, TRAINING = ("fskd", "cd"), ("kd", "cd", "mir", "practise")  # cd does both
Network = Callable[[str], nn.Module]

every_method = pytest.mark.parametrize("method", sorted(METHODS))


@pytest.fixture(autouse=True)
def quick_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """cd's descent is what takes its time; 30 steps of it choose too."""
    monkeypatch.setattr(crossed_channels, "choose_channels", partial(choose_channels, iterations=30))


@pytest.fixture(scope="module")
def teacher_for(network: Network) -> Callable[[str], nn.Module]:
    """`teacher_for(method)`: one that the method can do something with."""
    return lambda method: network(TEACHERS.get(method, "residual"))


def compressed(method: str, teacher: nn.Module, settings: CompressSettings, *, oe: bool, **plan: Any) -> Compressed:
    """What `method` makes of `teacher`, with OOD images or without. plan: settings of OE."""
    settings = replace(settings, method=method, oe=oe, **SUITABLE.get(method, {}))
    torch.manual_seed(settings.seed)
    return compress_with(settings, teacher, bench_for(teacher, settings, **plan))


def bench_for(teacher: nn.Module, settings: CompressSettings, **plan: Any) -> Workbench:
    """A workbench whose target takes as long as a network has MACs."""
    assert settings.ood is not None
    oe, ood = settings.oe, settings.ood

    def latency_ms(models: Sequence[nn.Module]) -> list[float]:
        return [count_macs(model, PREPROCESS.shape) / 1e6 for model in models]

    return Workbench(
        teacher,
        lambda: (load_samples(find_samples(settings.samples), PREPROCESS), load_pool(ood, PREPROCESS) if oe else None),
        shape=PREPROCESS.shape,
        plan=OESettings(**{"holdout": 0.0, **plan}) if oe else None,
        fabric=new_fabric(settings),
        batch=settings.batch,
        padding=2,
        seed=settings.seed,
        latency_ms=latency_ms,
    )


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
    x = torch.randn(4, *PREPROCESS.shape, generator=torch.Generator().manual_seed(0))
    one, other = (student(x) for student in students)
    assert torch.allclose(one, other, rtol=0, atol=1e-3 * float(one.abs().max())), "rounding in another order of rows"


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
    asked = replace(settings, method=method, options={"widths": "sensitivity"}, keep_macs=0.6)
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
        *((method, widths) for method in ("kd", "fskd", "cd") for widths in ("uniform", "sensitivity")),
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
    options = {} if method == "practise" else {"widths": widths}
    asked = replace(settings, method=method, steps=2, keep_macs=0.7, options=options)
    made = compressed(method, teacher, asked, oe=True)
    assert made.pruned.macs_kept < 1
    assert made.pruned.model(torch.randn(2, 3, 16, 16)).isfinite().all()


def test_latency_is_asked_for_by_the_cuts_that_say_so(
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
        assert bool(timed) == load_cut(method).measures_latency
        timed.clear()


# Budgets


@pytest.mark.parametrize("method", [method for method in sorted(METHODS) if load_method(method).to_budget])
def test_every_method_that_prunes_meets_a_budget_with_the_units_it_names(
    method: str, network: Network, settings: CompressSettings
) -> None:
    teacher = network("stages")
    (whole,) = MacsMeter((Limit("board", "p50_ms", 1.0),)).costs(teacher, final=True)
    assert whole is not None
    meter = MacsMeter((Limit("board", "p50_ms", 0.7 * whole),))
    asked = replace(settings, method=method, steps=2, latency_ms=0.7 * whole, oe=False)
    made = compress_with(asked, teacher, bench_for(teacher, asked), meter=meter)
    pruned, units = made.pruned, load_method(method).to_budget
    assert made.search is not None
    assert made.search.student[0] == pytest.approx(count_macs(pruned.model, PREPROCESS.shape) / 1e6)
    assert made.search.student[0] <= 0.7 * whole
    assert not pruned.removed or "channels" in units
    assert not pruned.dropped or "blocks" in units
    assert pruned.removed or pruned.dropped
    rebuilt = copy.deepcopy(teacher)
    apply_plan(rebuilt, plan_between(teacher, pruned.model))
    rebuilt.load_state_dict(pruned.model.state_dict())
    x = torch.randn(4, *PREPROCESS.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rebuilt(x), pruned.model(x))


# Cuts and recoveries


def unique(load: Callable[[str], Any]) -> list[Any]:
    """(method, part) for each part that methods have, once."""
    parts = {load(method): method for method in METHODS}
    return [pytest.param(method, id=part.__name__) for part, method in parts.items()]


every_cut = pytest.mark.parametrize("method", unique(load_cut))
every_recovery = pytest.mark.parametrize("method", unique(load_recovery))


@every_method
def test_a_row_says_what_its_parts_take(method: str) -> None:
    pair = load_method(method)
    options = [part.Options for part in (load_cut(method), load_recovery(method)) if part.Options is not None]
    assert list(pair.options) == options
    names = [one.name for kind in options for one in dataclasses.fields(kind)]
    assert len(set(names)) == len(names), "no option is of both"
    assert pair.about.does
    assert pair.about.needs


@every_cut
def test_a_cut_is_a_smaller_copy_on_the_cpu(
    method: str, teacher_for: Callable[[str], nn.Module], settings: CompressSettings
) -> None:
    teacher, asked = teacher_for(method), replace(settings, method=method, **SUITABLE.get(method, {}))
    before = copy.deepcopy(teacher.state_dict())
    pruned = load_cut(method)(asked).prune(teacher, bench_for(teacher, asked))
    assert pruned.macs == count_macs(teacher, PREPROCESS.shape)
    assert pruned.macs_kept == count_macs(pruned.model, PREPROCESS.shape) / pruned.macs
    assert pruned.params_kept == count_params(pruned.model) / count_params(teacher)
    assert (pruned.macs_kept < 1) == bool(pruned.removed or pruned.dropped)
    assert not any(module.training for module in pruned.model.modules())
    assert {tensor.device.type for tensor in pruned.model.state_dict().values()} == {"cpu"}
    assert not {t.data_ptr() for t in teacher.parameters()} & {t.data_ptr() for t in pruned.model.parameters()}
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


class BlocksThenChannels:
    """Drops the first block and narrows the others: a cut of both kinds, as a third party may write it."""

    Options = None
    measures_latency = False

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        structure = read_structure(teacher, bench.shape)
        dropped = drop_blocks(teacher, [structure.blocks[0].name], shape=bench.shape)
        groups = find_groups(dropped.model, bench, self.settings, protect=structure.head)
        return dropped.then(prune_channels(dropped.model, shape=bench.shape, keep=0.8, groups=groups))


class ChannelsThenBlocks:
    """The same in the other order."""

    Options = None
    measures_latency = False

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        structure = read_structure(teacher, bench.shape)
        groups = find_groups(teacher, bench, self.settings, protect=structure.head)
        narrowed = prune_channels(teacher, shape=bench.shape, keep=0.8, groups=groups)
        return narrowed.then(drop_blocks(narrowed.model, [structure.blocks[0].name], shape=bench.shape))


@every_recovery
@pytest.mark.parametrize("cut", [ChannelsBeforeFeatures, BlocksThenChannels, ChannelsThenBlocks])
def test_a_recovery_takes_what_any_cut_has_left(
    cut: type[Cut], method: str, network: Network, settings: CompressSettings
) -> None:
    """The student is rebuilt from its plan and weights, computes, and is no further from its teacher than it was."""
    teacher = network("stages")
    asked = replace(settings, method=method, keep_macs=None, steps=3)
    bench = bench_for(teacher, asked)
    pruned = cut(replace(asked, method="mir", keep_macs=0.7)).prune(teacher, bench)
    assert pruned.removed
    assert bool(pruned.dropped) == (cut is not ChannelsBeforeFeatures)
    assert pruned.macs_kept == pytest.approx(count_macs(pruned.model, PREPROCESS.shape) / pruned.macs)
    assert pruned.params_kept == pytest.approx(count_params(pruned.model) / count_params(teacher))
    before = copy.deepcopy(pruned.model)
    fit = load_recovery(method)(asked).recover(teacher, pruned, bench)
    assert isinstance(fit, Fit)
    assert differ(before, pruned.model) == (load_recovery(method).__name__ != "Nothing")
    rebuilt = copy.deepcopy(teacher)
    apply_plan(rebuilt, plan_between(teacher, pruned.model))
    rebuilt.load_state_dict(pruned.model.state_dict())
    x = torch.randn(4, *PREPROCESS.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rebuilt(x), pruned.model(x))
    assert rebuilt(x).isfinite().all()
    assert not any(module.training for module in pruned.model.modules())
    for name in pruned.dropped:
        assert isinstance(rebuilt.get_submodule(name), nn.Identity)


@pytest.mark.parametrize("cut", [BlocksThenChannels, ChannelsThenBlocks])
def test_least_squares_bring_a_student_without_a_block_nearer_to_its_teacher(
    cut: type[Cut], network: Network, settings: CompressSettings
) -> None:
    teacher, asked = network("stages"), replace(settings, method="fskd", oe=False)
    bench = bench_for(teacher, asked)
    pruned = cut(asked).prune(teacher, bench)
    x, _ = bench.rows()[0]

    def error() -> float:
        features = read_structure(teacher, PREPROCESS.shape).features
        return float((capture(pruned.model, x, features)[0] - capture(teacher, x, features)[0]).square().mean())

    before = error()
    load_recovery("fskd")(asked).recover(teacher, pruned, bench)
    assert error() < before
