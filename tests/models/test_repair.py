"""Closed-form repair: what can be put right is, and nothing is made worse."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from layers import layer_of
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from edgeoe.models.observation import HookPoint, capture
from edgeoe.models.reconstruction import Rows, columns, patches
from edgeoe.models.repair import refit_without, repair, repairs_of_blocks
from edgeoe.models.structure import read_structure
from edgeoe.pruning.groups import Group
from edgeoe.pruning.prune import Pruned, drop_blocks, drop_channels
from edgeoe.pruning.removal import without_blocks
from edgeoe.pruning.verify import prunable_groups

SHAPE = (3, 16, 16)
Network = Callable[[str], nn.Module]
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def rows(count: int = 48, *, weight: Tensor | None = None) -> Rows:
    """Two batches of random images, of random weights unless given."""
    g = torch.Generator().manual_seed(5)
    x, random = torch.randn(count, *SHAPE, generator=g), 0.5 + torch.rand(count, generator=g)
    half = count // 2
    return [*zip(x.split(half), (random if weight is None else weight).split(half), strict=True)]


def lively(model: nn.Module) -> nn.Module:
    """`model` in eval mode, its batch norms with statistics and scales that do something."""
    g = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                assert tensor is not None
                tensor.copy_(low + torch.rand(tensor.shape, generator=g))
    return model.eval().requires_grad_(False)


def error(student: nn.Module, teacher: nn.Module, of: Rows) -> float:
    """Weighted squared difference of logits."""
    total = sum(float(((student(x) - teacher(x)).square().sum(1) * weight).sum()) for x, weight in of)
    return total / sum(float(weight.sum()) for _, weight in of)


def scale(teacher: nn.Module, of: Rows) -> float:
    """Weighted variance of the teacher's logits."""
    logits = torch.cat([teacher(x) for x, _ in of])
    return float((logits - logits.mean(0)).square().sum(1).mean())


def repaired(pruned: Pruned, teacher: nn.Module, of: Rows) -> nn.Module:
    structures = read_structure(teacher, SHAPE), read_structure(pruned.model, SHAPE)
    repair(pruned, teacher, structures, of)
    return pruned.model


# (a) Channels that others make up for


def chain(*, norm: bool) -> nn.Sequential:
    """The sixth channel of the first convolution is twice the first less the third."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 6, 3, padding=1)
    first.weight[5] = 2 * first.weight[0] - first.weight[2]
    assert first.bias is not None
    first.bias[5] = 2 * first.bias[0] - first.bias[2]
    second = nn.Conv2d(6, 8, 3, padding=1, bias=not norm)
    after = [nn.BatchNorm2d(8)] if norm else []
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(first, second, *after, *head).eval().requires_grad_(False)


def without_sixth(teacher: nn.Module) -> Pruned:
    groups = tuple(prunable_groups(teacher, shape=SHAPE))
    return drop_channels(teacher, groups, {"0": (5,)}, shape=SHAPE)


@pytest.mark.parametrize("norm", [False, True])
def test_a_channel_that_is_a_linear_copy_of_others_is_not_missed(norm: bool) -> None:
    """But at the borders: zeros are padded to what has a bias."""
    teacher = lively(chain(norm=norm))
    layer_of(teacher, "0").bias.zero_()
    bare, of = without_sixth(teacher).model, rows()
    student = repaired(without_sixth(teacher), teacher, of)
    assert error(bare, teacher, of) > 1e-2 * scale(teacher, of)
    assert error(student, teacher, of) < 1e-5 * error(bare, teacher, of)


def moments_of(layer: nn.Module, x: Tensor) -> Tensor:
    u = torch.cat([*patches(layer, x, total=1, generator=torch.Generator())], 1).flatten(0, 1).double()
    return (u.T @ u / len(u)).float()


def test_columns_that_are_refitted_without_others_do_as_well() -> None:
    teacher = chain(norm=False)
    layer_of(teacher, "0").bias.zero_()
    student, x = copy.deepcopy(teacher), rows()[0][0]
    layer = layer_of(student, "1")
    (lost,) = columns(layer, [(5,)])
    refit_without(layer, lost, moments_of(layer, teacher[0](x)))
    assert bool((layer.weight[:, 5] == 0).all())
    difference, whole = student(x) - teacher(x), teacher(x)
    assert float(difference.abs().max()) < 1e-3 * float(whole.abs().max())
    unfitted = copy.deepcopy(teacher)
    layer_of(unfitted, "1").weight[:, 5] = 0
    assert float((unfitted(x) - whole).abs().max()) > 0.05 * float(whole.abs().max())


def test_no_other_weights_do_better_without_the_columns() -> None:
    """Ordinary least squares, solved by another routine."""
    torch.manual_seed(0)
    layer, u = nn.Linear(6, 4, bias=False), torch.randn(300, 6) @ torch.randn(6, 6)
    target = layer(u)
    refit_without(layer, torch.tensor([1, 4]), u.T @ u / len(u))
    kept = [0, 2, 3, 5]
    best = torch.linalg.lstsq(u[:, kept].double(), target.double()).solution.T
    torch.testing.assert_close(layer.weight[:, kept].double(), best, rtol=1e-2, atol=1e-2)
    assert bool((layer.weight[:, [1, 4]] == 0).all())


# (b) Blocks that the layer before them takes over


class Linear(nn.Module):
    """A residual block whose branch is linear: a 1x1 convolution, a batch norm perhaps."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.norm(self.conv(x))
        return y


def with_linear_block(*, norm: bool, before: bool, blocks: int = 1, after: bool = False) -> nn.Module:
    """A stem, then blocks that could be merged into it.

    norm: in the blocks. before: a batch norm between stem and block. after: another block follows.
    """
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(6)] if before else []
    stem = [nn.Conv2d(3, 6, 3, padding=1, bias=not before), *norms]
    body = [*(Linear(6, norm=norm) for _ in range(blocks)), *([Nonlinear(6)] if after else [])]
    head = (nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return lively(nn.Sequential(*stem, *body, *head))


class Nonlinear(nn.Module):
    """A block without activation after its sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.two(F.relu(self.one(x)))
        return y


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_the_layer_before_a_linear_block_takes_it_over(norm: bool, before: bool) -> None:
    teacher, of = with_linear_block(norm=norm, before=before), rows()
    (block,) = read_structure(teacher, SHAPE).blocks
    bare = drop_blocks(teacher, [block.name], shape=SHAPE)
    wrong = error(bare.model, teacher, of)
    assert wrong > 1e-2 * scale(teacher, of)
    assert error(repaired(bare, teacher, of), teacher, of) < 1e-3 * wrong
    changes = repairs_of_blocks(teacher, read_structure(teacher, SHAPE), of)
    assert changes.keys() == {block.name}
    student = without_blocks(teacher, [block.name])
    changes[block.name].apply(student)
    assert error(student, teacher, of) < 1e-3 * wrong


@pytest.mark.parametrize("before", [False, True])
def test_a_block_that_follows_does_not_disturb_the_repair(before: bool) -> None:
    """The layer before the dropped block goes straight into the sum of the next one, as in a MobileNet."""
    teacher, of = with_linear_block(norm=True, before=before, after=True), rows()
    dropped = read_structure(teacher, SHAPE).blocks[0].name
    bare = drop_blocks(teacher, [dropped], shape=SHAPE)
    wrong = error(bare.model, teacher, of)
    assert error(repaired(bare, teacher, of), teacher, of) < 1e-3 * wrong


@pytest.mark.parametrize("after", [False, True])
def test_several_blocks_in_a_row_are_taken_over_together(after: bool) -> None:
    teacher, of = with_linear_block(norm=True, before=True, blocks=3, after=after), rows()
    names = [block.name for block in read_structure(teacher, SHAPE).blocks][:3]
    bare = drop_blocks(teacher, names, shape=SHAPE)
    wrong = error(bare.model, teacher, of)
    assert error(repaired(bare, teacher, of), teacher, of) < 1e-3 * wrong


def test_measuring_a_blocks_repair_leaves_the_teacher_as_it_is() -> None:
    teacher = with_linear_block(norm=True, before=True)
    before = copy.deepcopy(teacher.state_dict())
    repairs_of_blocks(teacher, read_structure(teacher, SHAPE), rows())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_a_block_whose_input_no_layer_makes_is_not_repaired() -> None:
    """The images themselves are its input."""
    torch.manual_seed(0)
    teacher = nn.Sequential(Linear(3, norm=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).eval()
    assert repairs_of_blocks(teacher, read_structure(teacher, SHAPE), rows()) == {}
    assert error(repaired(drop_blocks(teacher, ["0"], shape=SHAPE), teacher, rows()), teacher, rows()) > 0


# (c) Any cut


def cut(teacher: nn.Module, *, blocks: tuple[str, ...] = (), narrow: bool = True) -> Pruned:
    """`teacher` without a third of the channels that its head does not read, and without blocks."""
    head = read_structure(teacher, SHAPE).head
    dropped = drop_blocks(teacher, blocks, shape=SHAPE)
    groups = tuple(prunable_groups(dropped.model, shape=SHAPE))

    def removed(group: Group) -> tuple[int, ...]:
        return group.order[: len(group.order) // 3]

    taken = {one.name: removed(one) for one in groups if not one.refused and head not in one.consumers}
    return dropped.then(drop_channels(dropped.model, groups, taken if narrow else {}, shape=SHAPE))


class Act(nn.Module):
    """Two residual blocks whose batch norms have the activation in them, as timm's have."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.one_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), BatchNormAct2d(8)
            self.two, self.two_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), BatchNormAct2d(8, apply_act=False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.two_norm(self.two(self.one_norm(self.one(x)))) + x
            return y

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), BatchNormAct2d(8)
        self.blocks = nn.Sequential(Act.Block(), Act.Block(), Act.Block())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.stem_norm(self.stem(x))).mean((2, 3)))
        return y


def vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    teacher = VisionTransformer(
        image_size=16, patch_size=4, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    )
    nn.init.normal_(teacher.heads[0].weight, std=0.3)
    return teacher.eval().requires_grad_(False)


def of_name(name: str, network: Network) -> nn.Module:
    own: dict[str, Callable[[], nn.Module]] = {"act": lambda: lively(Act()), "vit": vit}
    torch.manual_seed(0)
    return own[name]() if name in own else network(name)


CUTS = [
    *(("stages", blocks, True) for blocks in [(), ("early.1",), ("early.0", "early.1"), ("early.0", "late.1")]),
    *(("stages", blocks, False) for blocks in [("early.0",), ("late.0", "late.1")]),
    *((name, (), True) for name in ("residual", "chain", "vit")),
    *(("act", blocks, narrow) for blocks, narrow in [((), True), (("blocks.1",), True), (("blocks.0",), False)]),
    *(("act", blocks, False) for blocks in [("blocks.1", "blocks.2")]),
]


@pytest.mark.parametrize(("name", "blocks", "narrow"), CUTS)
def test_any_cut_is_brought_nearer_to_its_teacher(
    name: str, blocks: tuple[str, ...], narrow: bool, network: Network
) -> None:
    teacher, of = of_name(name, network), rows()
    pruned = cut(teacher, blocks=blocks, narrow=narrow)
    before = error(pruned.model, teacher, of)
    frozen = copy.deepcopy(teacher.state_dict())
    student = repaired(pruned, teacher, of)
    assert before > 0
    assert error(student, teacher, of) < before
    assert not any(module.training for module in student.modules())
    assert all(torch.equal(frozen[key], value) for key, value in teacher.state_dict().items())


def test_nothing_pruned_changes_nothing(network: Network) -> None:
    teacher = network("stages")
    student = repaired(drop_blocks(teacher, [], shape=SHAPE), teacher, rows())
    assert all(torch.equal(teacher.state_dict()[key], value) for key, value in student.state_dict().items())


def test_layers_that_are_no_single_regression_are_skipped(network: Network) -> None:
    """A depthwise convolution lost channels: its own weights stay."""
    teacher = network("residual")
    groups = tuple(prunable_groups(teacher, shape=SHAPE))
    taken = {"wide.0": (0, 3, 5)}
    bare = drop_channels(teacher, groups, taken, shape=SHAPE)
    student = repaired(drop_channels(teacher, groups, taken, shape=SHAPE), teacher, rows())
    assert torch.equal(layer_of(student, "depthwise.0").weight, layer_of(bare.model, "depthwise.0").weight)
    assert not torch.equal(layer_of(student, "narrow.0").weight, layer_of(bare.model, "narrow.0").weight)


def test_the_head_stays(network: Network) -> None:
    teacher = network("stages")
    student = repaired(cut(teacher, blocks=("early.1",)), teacher, rows())
    for key in ("head.weight", "head.bias"):
        assert torch.equal(student.state_dict()[key], teacher.state_dict()[key])


def test_rows_that_weigh_nothing_are_not_solved_for(network: Network) -> None:
    """Beside such rows the student is the same, up to the draw of positions."""
    teacher = network("stages")
    first = torch.cat([torch.ones(24), torch.zeros(24)])
    solved = [
        repaired(cut(teacher, blocks=("early.1",)), teacher, of)
        for of in (rows(weight=first), rows(weight=first)[:1], rows(weight=torch.ones(48)))
    ]
    keys = [key for key, value in solved[0].state_dict().items() if value.is_floating_point()]
    for key in keys:
        torch.testing.assert_close(solved[0].state_dict()[key], solved[1].state_dict()[key], rtol=1e-3, atol=1e-4)
    assert any(not torch.allclose(solved[0].state_dict()[key], solved[2].state_dict()[key], atol=1e-3) for key in keys)


def test_heavier_rows_are_met_more_closely(network: Network) -> None:
    """Rows of the first half weigh a hundred times the others, or the other way round."""
    teacher, half = network("stages"), torch.ones(24)
    first, second = rows(weight=torch.ones(48))
    of_first, of_second = (
        repaired(cut(teacher), teacher, rows(weight=torch.cat(weights)))
        for weights in ([half, half / 100], [half / 100, half])
    )
    points = HookPoint("late.1")

    def distance(student: nn.Module, of: tuple[Tensor, Tensor]) -> float:
        return float((capture(student, of[0], points)[0] - capture(teacher, of[0], points)[0]).square().mean())

    assert distance(of_first, first) < distance(of_second, first)
    assert distance(of_second, second) < distance(of_first, second)


def test_the_same_rows_repair_alike(network: Network) -> None:
    teacher = network("stages")
    one, other = (repaired(cut(teacher, blocks=("late.0",)), teacher, rows()).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_repair_is_as_good_on_images_that_it_was_not_solved_with(network: Network) -> None:
    teacher, of = network("stages"), rows(96)
    bare = cut(teacher, blocks=("early.1",))
    before = error(bare.model, teacher, of[1:])
    assert error(repaired(bare, teacher, of[:1]), teacher, of[1:]) < 0.8 * before
