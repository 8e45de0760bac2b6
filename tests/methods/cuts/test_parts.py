"""The parts of a teacher that a budget may cut, and the students without them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from layers import layer_of
from torch import Tensor, nn

from edgeoe.methods.cuts.parts import Parts, block_choice
from edgeoe.models.checkpoint import load_student, save_student
from edgeoe.models.structure import read_structure
from edgeoe.models.teacher import TeacherSource
from edgeoe.pruning.programme import Programme
from edgeoe.pruning.prune import count_macs, count_params
from edgeoe.pruning.verify import prunable_groups
from edgeoe.records.latency_table import TEACHER
from edgeoe.run.directory import Run

SHAPE = (3, 16, 16)
Network = Callable[[str], nn.Module]


def parts_of(teacher: nn.Module, *, multiple: int = 1, most_widths: int = 4) -> Parts:
    """All that can be cut of `teacher`, but the inputs of its head."""
    structure = read_structure(teacher, SHAPE)
    groups = tuple(
        replace(group, refused="read by the head") if structure.head in group.consumers else group
        for group in prunable_groups(teacher, shape=SHAPE)
    )
    return Parts(teacher, SHAPE, groups, structure.blocks, multiple=multiple, most_widths=most_widths)


@pytest.fixture(scope="module")
def stages(network: Network) -> Parts:
    return parts_of(network("stages"))


def images() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3))


DROPPED = {block_choice("early.1"): 1, block_choice("late.0"): 1}
NARROWED = {"stem.0": 2, "early.0.one.0": 3, "late.1.one.0": 1}


def test_a_student_is_narrowed_and_has_blocks_dropped(stages: Parts) -> None:
    pruned = stages.student(DROPPED | NARROWED)
    assert pruned.dropped == ("early.1", "late.0")
    assert {name: len(units) for name, units in pruned.removed.items()} == {
        name: stages.levels[name][option - 1] for name, option in NARROWED.items()
    }
    stream = 8 - stages.levels["stem.0"][1]
    inner = 8 - stages.levels["early.0.one.0"][2]
    assert layer_of(pruned.model, "stem.0").weight.shape == (stream, 3, 3, 3)
    assert layer_of(pruned.model, "early.0.one.0").weight.shape == (inner, stream, 3, 3)
    assert layer_of(pruned.model, "early.0.two.0").weight.shape == (stream, inner, 3, 3)
    assert layer_of(pruned.model, "down.0").weight.shape[1] == stream
    assert isinstance(pruned.model.get_submodule("early.1"), nn.Identity)
    assert pruned.model(images()).shape == (4, 3)
    assert pruned.macs_kept == pytest.approx(count_macs(pruned.model, SHAPE) / count_macs(stages.teacher, SHAPE))
    assert pruned.params_kept == pytest.approx(count_params(pruned.model) / count_params(stages.teacher))


def test_units_go_in_the_order_that_is_given(stages: Parts) -> None:
    order = tuple(reversed(range(8)))
    pruned = stages.student({"early.0.one.0": 2}, orders={"early.0.one.0": order})
    assert pruned.removed == {"early.0.one.0": tuple(sorted(order[: stages.levels["early.0.one.0"][1]]))}
    own = stages.student({"early.0.one.0": 2})
    group = next(group for group in stages.groups if group.name == "early.0.one.0")
    assert set(own.removed["early.0.one.0"]) == set(group.order[: stages.levels[group.name][1]])


def test_nothing_taken_is_the_teacher(stages: Parts) -> None:
    pruned = stages.student({})
    assert (pruned.removed, pruned.dropped, pruned.macs_kept, pruned.params_kept) == ({}, (), 1.0, 1.0)
    assert torch.equal(pruned.model(images()), stages.teacher(images()))
    assert pruned.groups == stages.groups


@pytest.mark.usefixtures("fresh_process")
def test_a_student_without_blocks_and_channels_survives_its_checkpoint(
    stages: Parts, teacher_file: Path, tmp_path: Path
) -> None:
    pruned, run = stages.student(DROPPED | NARROWED), Run(tmp_path / "run")
    save_student(run, pruned, TeacherSource.parse(f"{teacher_file}:stages"), outputs=3, x=images())
    assert torch.equal(load_student(run)(images()), pruned.model(images()))


@pytest.mark.parametrize("name", ["stages", "residual", "chain"])
def test_every_option_makes_a_student_that_runs(name: str, network: Network) -> None:
    parts = parts_of(network(name), most_widths=2)
    every = {group.name: len(parts.levels[group.name]) for group in parts.narrowed}
    every |= {block_choice(block.name): 1 for block in parts.blocks}
    assert every
    for choice, last in every.items():
        for option in range(1, last + 1):
            pruned = parts.student({choice: option})
            assert pruned.model(images()).isfinite().all()
            assert pruned.params_kept < 1
    programme = Programme(parts.choices(flat_losses(parts)), (parts.parameters(),))
    assert parts.student(programme.smallest()).model(images()).isfinite().all()


def flat_losses(parts: Parts) -> dict[str, tuple[float, ...]]:
    """A loss of one for each option that prunes something."""
    losses = {group.name: (0.0, *(1.0 for _ in parts.levels[group.name])) for group in parts.narrowed}
    return losses | {block_choice(block.name): (0.0, 1.0) for block in parts.blocks}


# The latency table


def test_variants_are_the_same_for_the_same_network(network: Network) -> None:
    first, again = (list(parts_of(network("stages")).variants()) for _ in range(2))
    assert first == again
    assert first[0] == TEACHER
    assert len(set(first)) == len(first)


def test_there_is_a_variant_for_each_width_of_a_kind_of_group_and_for_each_kind_of_block(stages: Parts) -> None:
    variants = list(stages.variants())
    blocks = [name for name in variants if name.endswith(" dropped")]
    assert blocks == ["early.0,early.1 dropped", "late.0,late.1 dropped"]
    inner = [name for name in variants if name.startswith("early.0.one.0,early.1.one.0 -")]
    assert len(inner) == len(stages.levels["early.0.one.0"])
    widths = {names[0].name: len(stages.levels[names[0].name]) for names in stages.group_kinds}
    assert len(variants) == 1 + len(blocks) + sum(widths.values())


@pytest.mark.parametrize("name", ["stages", "residual", "chain"])
def test_every_variant_runs_and_is_smaller(name: str, network: Network) -> None:
    teacher = network(name)
    macs = count_macs(teacher, SHAPE)
    variants = dict(parts_of(teacher, most_widths=2).variants())
    assert variants.pop(TEACHER)() is teacher
    assert variants
    for variant, make in variants.items():
        model = make()
        assert count_macs(model, SHAPE) < macs, variant
        assert model(images()).isfinite().all()
        assert not any(module.training for module in model.modules())


def table_of_macs(parts: Parts) -> dict[str, float]:
    return {name: float(count_macs(make(), SHAPE)) for name, make in parts.variants().items()}


@pytest.mark.parametrize("name", ["stages", "residual", "chain"])
def test_what_one_part_saves_is_its_share_of_what_alike_parts_save(name: str, network: Network) -> None:
    """Where latency is MACs, it is known exactly."""
    parts = parts_of(network(name))
    programme = Programme(parts.choices(flat_losses(parts)), (parts.latency(table_of_macs(parts)),))
    macs = count_macs(parts.teacher, SHAPE)
    for choice in programme.choices:
        for option in {1, len(choice.options) - 1}:
            saved = macs * (1 - parts.student({choice.name: option}).macs_kept)
            assert programme.saved({choice.name: option})[0] == pytest.approx(saved, rel=1e-6), (choice.name, option)


# What options save together


def pairs(parts: Parts) -> list[dict[str, int]]:
    """Any two choices at their middle or last option, none within the other."""
    choices = parts.choices(flat_losses(parts))
    some = [(one, other) for one, other in itertools.combinations(choices, 2)]
    apart = [(a, b) for a, b in some if a.within != b.name and b.within != a.name]
    return [
        {one.name: min(at, len(one.options) - 1), other.name: min(at, len(other.options) - 1)}
        for one, other in apart
        for at in (2, 9)
    ]


@pytest.mark.parametrize("name", ["stages", "residual", "chain"])
def test_two_cuts_save_the_parameters_that_the_student_lacks(name: str, network: Network) -> None:
    parts = parts_of(network(name))
    programme = Programme(parts.choices(flat_losses(parts)), (parts.parameters(),))
    params = count_params(parts.teacher)
    assert pairs(parts)
    for taken in pairs(parts)[::3]:
        lacks = params - count_params(parts.student(taken).model)
        assert programme.saved(taken)[0] == pytest.approx(lacks, rel=1e-9), taken


def transformer() -> nn.Module:
    """A small ViT with position embeddings, a class token, layer scales and a width that its head does not fix."""
    torch.manual_seed(0)
    model: nn.Module = timm.models.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, num_classes=3, init_values=0.1
    )
    return model.eval().requires_grad_(False)


def with_stream(parts: Parts) -> Parts:
    """`parts` of which the layers that the head reads can be narrowed, too."""
    groups = (replace(one, refused="") if one.refused == "read by the head" else one for one in parts.groups)
    return replace(parts, groups=tuple(groups))


def test_parameters_of_a_transformer_are_exact_at_every_option_and_for_two_cuts() -> None:
    """Position embeddings, tokens and layer scales are parameters of modules that have no weight."""
    parts = with_stream(parts_of(transformer(), most_widths=3))
    programme = Programme(parts.choices(flat_losses(parts)), (parts.parameters(),))
    params = count_params(parts.teacher)
    stream = next(group for group in parts.narrowed if any(slot.tensor == "pos_embed" for slot in group.slots))
    assert {"cls_token", "gamma"} < {slot.tensor for slot in stream.slots}
    single = [{choice.name: at} for choice in programme.choices for at in range(1, len(choice.options))]
    assert len(single) > 10
    for taken in single + pairs(parts):
        lacks = params - count_params(parts.student(taken).model)
        across = any(group.crossing and taken.get(group.name) for group in parts.narrowed) and len(taken) > 1
        assert programme.saved(taken)[0] == pytest.approx(lacks, rel=0.01 if across else 1e-9), taken


def test_the_latency_of_a_module_is_not_that_of_its_children() -> None:
    """The root holds the position embeddings: what they lose is no share of the whole network's latency."""
    parts = with_stream(parts_of(transformer()))
    layers = parts.latency(table_of_macs(parts)).layers
    assert layers[""] == 0
    assert layers["blocks.0.attn"] > 0, "products of activations"
    assert sum(layers.values()) == count_macs(parts.teacher, SHAPE)


def plain(width: int = 8) -> nn.Module:
    """Convolutions without bias or norm, two residual blocks."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = x + self.two(self.one(x).relu())
            return y

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False), Branch(), Branch(), nn.Conv2d(width, 6, 1, bias=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval().requires_grad_(False)  # fmt: skip


def test_parameters_of_plain_convolutions_are_exact_for_two_cuts() -> None:
    parts = parts_of(plain())
    programme = Programme(parts.choices(flat_losses(parts)), (parts.parameters(),))
    params = count_params(parts.teacher)
    names = {choice.name for choice in programme.choices}
    assert {"0", "1.one", "2.one", "block 1", "block 2"} <= names
    for taken in pairs(parts):
        lacks = params - count_params(parts.student(taken).model)
        assert programme.saved(taken)[0] == pytest.approx(lacks, rel=1e-9), taken


@pytest.mark.parametrize("taken", [{"0": 2, "1.one": 3, "2.one": 1}, {"0": 4, "block 1": 1, "2.one": 2}])
def test_parameters_of_a_stream_and_inner_groups_are_exact(taken: dict[str, int]) -> None:
    parts = parts_of(plain())
    programme = Programme(parts.choices(flat_losses(parts)), (parts.parameters(),))
    lacks = count_params(parts.teacher) - count_params(parts.student(taken).model)
    assert programme.saved(taken)[0] == pytest.approx(lacks, rel=1e-9)


def test_groups_within_a_block_are_not_narrowed_beside_it(stages: Parts) -> None:
    within = {choice.name: choice.within for choice in stages.choices(flat_losses(stages))}
    assert within["early.0.one.0"] == "block early.0"
    assert within["late.1.one.0"] == "block late.1"
    assert within["stem.0"] == ""
