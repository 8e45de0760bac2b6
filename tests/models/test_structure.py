"""What is read off one forward pass: layers, sums, blocks, features and the head."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.errors import PruningError
from edgeoe.models.observation import HookPoint, Recorder, ResidualSum, capture, capture_sum
from edgeoe.models.structure import Block, read_structure
from edgeoe.pruning.prune import drop_blocks

SHAPE = (3, 8, 8)
Network = Callable[[str], nn.Module]
ShapeOf = Callable[[str], tuple[int, int, int]]


def images(rows: int = 2, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(7))


class Branch(nn.Module):
    """conv, norm, relu, conv, norm; what is done with its input says the class."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.one, self.one_norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.two, self.two_norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def branch(self, x: Tensor) -> Tensor:
        return self.two_norm(self.two(F.relu(self.one_norm(self.one(x)))))


class PostActivation(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + x)


class InPlace(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two_norm(self.two(self.act(self.one_norm(self.one(x)))))
        y += x
        return self.act(y)


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one_norm, self.one = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.two_norm, self.two = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(F.relu(self.one_norm(x)))
        return x + self.two(F.relu(self.two_norm(y)))


class Inverted(nn.Module):
    """Expand, depthwise, project; the shortcut joins linear bottlenecks."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.expand_norm = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)
        self.depthwise, self.depthwise_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.project, self.project_norm = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.depthwise_norm(self.depthwise(F.relu6(self.expand_norm(self.expand(x))))))
        return x + self.project_norm(self.project(y))


class Dropping(Branch):
    """In eval mode dropout hands back the tensor it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.branch(self.dropout(x)))


class ZeroPadded(Branch):
    """Half the size and twice the channels: the shortcut is a slice with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.one_norm = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.two, self.two_norm = nn.Conv2d(8, 4 * 2, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))


class Gated(Branch):
    """Additions inside, but what comes out is a product: without it x would not pass on."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.branch(x) + x)


class Normed(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.after = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.branch(x) + x)


def around(block: nn.Module, *, outputs: int = 4) -> nn.Sequential:
    """stem, norm, relu, `block`, next convolution, pool, head."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), block, nn.Conv2d(outputs, 6, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    ).eval()


def test_layers_are_in_the_order_in_which_they_run() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem = nn.Linear(4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x).mean((2, 3)))

    assert read_structure(Backwards().eval(), SHAPE).layers == ("stem", "head")


def test_a_plain_network_has_no_sums_and_no_blocks() -> None:
    found = read_structure(around(nn.Identity()), SHAPE)
    assert found.layers == ("0", "4", "7")
    assert found.norms == {"0": "1"}
    assert not found.sums
    assert not found.blocks
    assert (found.features, found.head) == (HookPoint("4"), "7")


@pytest.mark.parametrize("block", [PostActivation, InPlace, Dropping])
def test_a_residual_block_is_found_with_its_neighbours(block: type[nn.Module]) -> None:
    found = read_structure(around(block()), SHAPE)
    assert found.layers == ("0", "3.one", "3.two", "4", "7")
    assert found.norms == {"0": "1", "3.one": "3.one_norm", "3.two": "3.two_norm"}
    operand = 1 if block is Dropping else 0
    assert found.sums == {"3.two": ResidualSum(0, operand, "3.two_norm")}
    assert found.blocks == (Block("3", (4, 8, 8), producers=("0",), consumers=("4",)),)


def test_a_pre_activation_block_sums_a_bare_convolution() -> None:
    found = read_structure(around(PreActivation()), SHAPE)
    assert found.sums == {"3.two": ResidualSum(0, 1, None)}
    assert found.norms == {"0": "1", "3.one": "3.two_norm"}
    assert [block.name for block in found.blocks] == ["3"]


def test_an_inverted_residual_is_a_block() -> None:
    found = read_structure(around(Inverted()), SHAPE)
    assert found.sums == {"3.project": ResidualSum(0, 1, "3.project_norm")}
    assert found.blocks == (Block("3", (4, 8, 8), producers=("0",), consumers=("4",)),)


def test_a_zero_padded_shortcut_is_a_sum_but_no_block() -> None:
    found = read_structure(around(ZeroPadded(), outputs=8), SHAPE)
    assert found.sums == {"3.two": ResidualSum(0, 0, "3.two_norm")}
    assert not found.blocks


@pytest.mark.parametrize("block", [Gated, Normed])
def test_a_block_that_would_not_hand_on_its_input_is_none(block: type[nn.Module]) -> None:
    assert not read_structure(around(block()), SHAPE).blocks


@pytest.mark.parametrize("alpha", [0.5, -1])
def test_a_sum_of_which_one_part_is_scaled_is_none(alpha: float) -> None:
    class Scaling(Branch):
        def forward(self, x: Tensor) -> Tensor:
            return torch.add(self.branch(x), x, alpha=alpha)

    found = read_structure(around(Scaling()), SHAPE)
    assert not found.sums
    assert not found.blocks


def test_what_lies_between_blocks_is_written_and_read_along_the_sums() -> None:
    found = read_structure(around(nn.Sequential(Inverted(), Inverted(), Inverted())), SHAPE)
    assert [block.name for block in found.blocks] == ["3.0", "3.1", "3.2"], "and not the sequence of them"
    middle = found.blocks[1]
    assert set(middle.producers) == {"0", "3.0.project"}
    assert set(middle.consumers) == {"3.2.expand", "4"}
    assert [found.sums[f"3.{number}.project"].index for number in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("block", [PostActivation, InPlace, PreActivation, Inverted, Dropping])
def test_a_dropped_block_hands_on_what_it_is_given(block: type[nn.Module]) -> None:
    network = around(block())
    (name,) = (block.name for block in read_structure(network, SHAPE).blocks)
    student = drop_blocks(network, [name], shape=SHAPE).model
    x = images()
    before = capture(network, x, HookPoint("3", "input"))[0]
    torch.testing.assert_close(capture(student, x, HookPoint("4", "input"))[0], before)


def test_a_convolution_used_twice_is_no_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.shared(F.relu(self.shared(self.stem(x)))).mean((2, 3)))

    assert read_structure(Twice().eval(), SHAPE).layers == ("stem", "head")


def test_a_block_used_twice_is_none() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Conv2d(3, 4, 1), PostActivation(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.block(self.stem(x))).mean((2, 3)))

    assert not read_structure(Twice().eval(), SHAPE).blocks


def test_a_head_may_be_a_convolution_that_is_flattened() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1), nn.Flatten()
    )
    found = read_structure(network.eval(), SHAPE)
    assert (found.head, found.features) == ("3", HookPoint("1"))


def test_features_are_what_the_head_reads_where_more_than_pooling_lies_between() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5), nn.ReLU(), nn.Linear(5, 3))
    found = read_structure(network.eval(), SHAPE)
    assert (found.head, found.features) == ("4", HookPoint("4", "input"))


def test_outputs_that_no_single_layer_makes_are_refused() -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * self.scale

    with pytest.raises(PruningError, match=r"makes this teacher's outputs, .+ Use --method kd"):
        read_structure(Ensemble().eval(), SHAPE)


def test_reading_changes_neither_the_network_nor_its_hooks() -> None:
    network, x = around(InPlace()), images()
    before = network(x)
    read_structure(network, SHAPE)
    assert torch.equal(network(x), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


# Published networks, as their papers draw them


def test_resnet18_is_read_as_its_paper_draws_it(network: Network, shape_of: ShapeOf) -> None:
    found = read_structure(network("torchvision:resnet18"), shape_of("torchvision:resnet18"))
    assert len(found.layers) == 21
    assert len(found.norms) == 20
    assert (found.features, found.head) == (HookPoint("layer4"), "fc")
    assert [block.name for block in found.blocks] == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert set(found.blocks[2].producers) == {"layer2.0.conv2", "layer2.0.downsample.0"}
    assert set(found.blocks[2].consumers) == {"layer3.0.conv1", "layer3.0.downsample.0"}
    assert found.sums["layer2.0.conv2"] == ResidualSum(2, 0, "layer2.0.bn2")
    assert found.sums["layer2.0.downsample.0"] == ResidualSum(2, 1, "layer2.0.downsample.1")


def test_mobilenet_v3_small_is_read_as_its_paper_draws_it(network: Network, shape_of: ShapeOf) -> None:
    name = "torchvision:mobilenet_v3_small"
    found = read_structure(network(name), shape_of(name))
    assert [block.name for block in found.blocks] == [f"features.{n}" for n in (3, 5, 6, 8, 10, 11)]
    assert (found.features, found.head) == (HookPoint("classifier.3", "input"), "classifier.3")


def test_vgg11_bn_has_no_blocks() -> None:
    from torchvision.models import vgg11_bn

    found = read_structure(vgg11_bn(num_classes=3).eval(), (3, 32, 32))
    assert (len(found.layers), len(found.norms)) == (11, 8)
    assert (found.blocks, dict(found.sums), found.head) == ((), {}, "classifier.6")


def test_a_vision_transformer_is_made_of_blocks() -> None:
    from torchvision.models import VisionTransformer

    made = VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )
    found = read_structure(made.eval(), (3, 16, 16))
    assert [block.name for block in found.blocks] == [f"encoder.layers.encoder_layer_{n}" for n in range(2)]
    assert found.blocks[0].shape == (5, 8)
    assert (found.features, found.head) == (HookPoint("heads.head", "input"), "heads.head")


# Looking


def test_looking_sees_what_goes_in_and_out() -> None:
    network, x = around(PostActivation()), images()
    into, out, first = capture(network, x, HookPoint("4", "input"), HookPoint("4"), HookPoint("0"))
    assert torch.equal(out, network[4](into))
    assert torch.equal(into, network[:4](x))
    assert torch.equal(first, network[0](x))


def test_looking_leaves_the_rest_of_the_pass_out() -> None:
    network, ran = around(PostActivation()), []
    network[4].register_forward_hook(lambda *_: ran.append("later"))
    network[3].register_forward_hook(lambda *_: ran.append("block"))
    capture(network, images(), HookPoint("3.one"))
    assert not ran
    capture(network, images(), HookPoint("4", "input"))
    assert ran == ["block"]


@pytest.mark.parametrize("block", [PostActivation, InPlace, PreActivation, Inverted, Dropping])
def test_a_sum_is_seen_with_both_its_operands(block: type[nn.Module]) -> None:
    network, x = around(nn.Sequential(block(), block())), images()
    structure = read_structure(network, SHAPE)
    assert len(structure.sums) == 2
    for layer, place in structure.sums.items():
        y, *operands = capture_sum(network, x, layer, place)
        into, out = capture(
            network, x, HookPoint(layer.rpartition(".")[0], "input"), HookPoint(layer.rpartition(".")[0])
        )
        norm = network.get_submodule(place.norm) if place.norm else nn.Identity()
        torch.testing.assert_close(norm(y), operands[place.operand])
        torch.testing.assert_close(into, operands[1 - place.operand])
        total = operands[0] + operands[1]
        torch.testing.assert_close(out, F.relu(total) if block in (PostActivation, InPlace) else total)


def test_what_is_seen_is_not_changed_by_what_comes_after_in_place() -> None:
    class Adding(Branch):
        def forward(self, x: Tensor) -> Tensor:
            x += self.branch(x)
            return x

    network, x = around(Adding()), images()
    alone = capture(network, x, HookPoint("3.one", "input"))[0].clone()
    together = capture(network, x, HookPoint("3.one", "input"), HookPoint("4", "input"))[0]
    assert torch.equal(together, alone)


def test_watching_holds_the_last_pass_in_the_order_of_the_points() -> None:
    network, x = around(PostActivation()), images(4)
    points = (HookPoint("7"), HookPoint("0", "input"))
    with Recorder(network, points) as watch:
        network(x[:1])
        logits = network(x)
        assert torch.equal(watch.values()[0], logits)
        assert torch.equal(watch.values()[1], x)
    network(x[:1])
    assert len(watch.values()[1]) == 4, "nothing is watched any more"
