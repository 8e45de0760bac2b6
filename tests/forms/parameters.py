"""Networks whose parameters are out of the ordinary: three classes, images (N, 3, 16, 16)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

__all__ = ["FACTORIES", "SHAPES"]


def conv(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def classifier(*body: nn.Module, channels: int) -> nn.Sequential:
    """`body`, whose output is (N, channels, H, W), then a last convolution, pooling and a linear head."""
    return nn.Sequential(*body, conv(channels, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


class Apply(nn.Module):
    """A function of a tensor, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class FunctionalConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2), nn.Parameter(torch.randn(16, 8, 3, 3) * 0.1)
        self.shift, self.head = nn.Parameter(torch.zeros(8)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.one, self.shift, padding=1))
        return self.head(F.relu(F.conv2d(x, self.two)).mean((2, 3)))


class TiedLayers(nn.Module):
    """Two convolutions of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.two.weight = self.one.weight
        self.tail = classifier(conv(8, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.two(self.one(self.stem(x)).relu()).relu())


class TiedTranspose(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.encoder, self.head = conv(3, 16), nn.Linear(16, 8), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.encoder(self.stem(x).mean((2, 3))))
        return self.head(F.relu(F.linear(code, self.encoder.weight.t())))


def shared_norm() -> nn.Module:
    norm = nn.BatchNorm2d(8)
    return classifier(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 8, 3), norm, conv(8, 16), channels=16)


class SharedParameter(nn.Module):
    """One scale that two modules hold."""

    class Scale(nn.Module):
        def __init__(self, scale: nn.Parameter) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale.view(1, -1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        scale = nn.Parameter(torch.rand(8) + 0.5)
        self.layers = nn.Sequential(conv(3, 8), self.Scale(scale), conv(8, 8), self.Scale(scale))
        self.tail = classifier(conv(8, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.layers(x))


def weight_norm() -> nn.Module:
    normed = parametrizations.weight_norm(nn.Conv2d(8, 12, 3))
    return classifier(conv(3, 8), normed, nn.ReLU(), conv(12, 16), channels=16)


def weight_norm_hook() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and in use
        normed = nn.utils.weight_norm(nn.Conv2d(8, 12, 3))
    return classifier(conv(3, 8), normed, nn.ReLU(), conv(12, 16), channels=16)


def spectral_norm() -> nn.Module:
    normed = parametrizations.spectral_norm(nn.Conv2d(8, 12, 3))
    return classifier(conv(3, 8), normed, nn.ReLU(), conv(12, 16), channels=16)


def spectral_norm_hook() -> nn.Module:
    normed = nn.utils.spectral_norm(nn.Conv2d(8, 12, 3))
    return classifier(conv(3, 8), normed, nn.ReLU(), conv(12, 16), channels=16)


def orthogonal() -> nn.Module:
    layer = parametrizations.orthogonal(nn.Linear(16, 12))
    return nn.Sequential(
        conv(3, 8), conv(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer, nn.ReLU(), nn.Linear(12, 3)
    )


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(3)) / 2


def parametrised() -> nn.Module:
    layer = nn.Conv2d(8, 12, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return classifier(conv(3, 8), layer, nn.ReLU(), conv(12, 16), channels=16)


def masked() -> nn.Module:
    layer = nn.Conv2d(8, 12, 3)
    prune.random_unstructured(layer, "weight", 0.5)
    return classifier(conv(3, 8), layer, nn.ReLU(), conv(12, 16), channels=16)


class Standardised(nn.Conv2d):
    """Weight standardisation, computed in forward."""

    def forward(self, x: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (centred.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def weight_standardisation() -> nn.Module:
    return classifier(conv(3, 8), Standardised(8, 12, 3), nn.ReLU(), conv(12, 16), channels=16)


class LowRank(nn.Module):
    """LoRA: a frozen weight and two thin ones."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(16, 16).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 16) * 0.1), nn.Parameter(torch.randn(16, 2) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base.weight + self.up @ self.down, self.base.bias)


def low_rank() -> nn.Module:
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(conv(3, 8), conv(8, 16), conv(16, 16), *pool, LowRank(), nn.ReLU(), nn.Linear(16, 3))


def frozen() -> nn.Module:
    model = classifier(conv(3, 8), conv(8, 16), channels=16)
    model[0].requires_grad_(False)
    return model


def all_frozen() -> nn.Module:
    return classifier(conv(3, 8), conv(8, 16), channels=16).requires_grad_(False)


class Unused(nn.Module):
    """A decoder that only pretraining ran, and a mask token."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.decoder = classifier(conv(3, 8), conv(8, 16), channels=16), nn.Conv2d(16, 3, 1)
        self.mask = nn.Parameter(torch.zeros(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def double() -> nn.Module:
    return classifier(conv(3, 8), conv(8, 16), channels=16).double()


class DoubleInside(nn.Module):
    """Asks for double where it computes a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = conv(3, 8), nn.Linear(16, 3)
        self.two = nn.Sequential(conv(8, 16), conv(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)).double().mean((2, 3)).float())


def half() -> nn.Module:
    return classifier(conv(3, 8), conv(8, 16), channels=16).half()


class Bfloat16Inside(nn.Module):
    """Casts its images to the type that it was trained in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = classifier(conv(3, 8), conv(8, 16), channels=16)
        self.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.to(torch.bfloat16))


class PlainTensor(nn.Module):
    """A tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1)
        self.one, self.tail = conv(3, 8), classifier(conv(8, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.one(x) * self.scale)


class NotPersistent(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1), persistent=False)
        self.one, self.tail = conv(3, 8), classifier(conv(8, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.one(x) * self.scale)


class ChannelBuffer(nn.Module):
    """A mean of each channel, saved with the weights."""

    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.rand(8))
        self.one, self.tail = conv(3, 8), classifier(conv(8, 16), channels=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.one(x) - self.centre[:, None, None])


class Scales(nn.Module):
    """Parameters in a list and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList([nn.Parameter(torch.rand(1, 8, 1, 1))])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.rand(8, 1, 1))})

    def forward(self, x: Tensor) -> Tensor:
        return x * self.list[0] + self.named["shift"]


def parameter_containers() -> nn.Module:
    return classifier(conv(3, 8), Scales(), conv(8, 16), channels=16)


class ExtraState(nn.Module):
    """State of its own in the state dict, which is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = classifier(conv(3, 8), conv(8, 16), channels=16)

    def get_extra_state(self) -> Any:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 3}

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def lazy() -> nn.Module:
    layers = (nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(16, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))


def scripted() -> nn.Module:
    return torch.jit.script(classifier(conv(3, 8), conv(8, 16), channels=16))


def traced() -> nn.Module:
    model = classifier(conv(3, 8), conv(8, 16), channels=16).eval()
    return torch.jit.trace(model, torch.zeros(2, 3, 16, 16))


def scripted_inside() -> nn.Module:
    return classifier(conv(3, 8), torch.jit.script(conv(8, 16)), conv(16, 16), channels=16)


def data_parallel() -> nn.Module:
    return nn.DataParallel(classifier(conv(3, 8), conv(8, 16), channels=16))


def compiled() -> Any:
    return torch.compile(classifier(conv(3, 8), conv(8, 16), channels=16))


def with_hooks() -> nn.Module:
    model = classifier(conv(3, 8), conv(8, 16), channels=16)
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return model


def quantisation_aware() -> nn.Module:
    from torch.ao.quantization import FakeQuantize

    return classifier(conv(3, 8), FakeQuantize(), conv(8, 16), channels=16)


def sparse() -> nn.Module:
    layer = nn.Linear(768, 16)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(16, 3))


def cast() -> nn.Module:
    return classifier(Apply(lambda x: x.to(torch.float32)), conv(3, 8), conv(8, 16), channels=16)


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    factory.__name__: factory
    for factory in (
        *(FunctionalConv, TiedLayers, TiedTranspose, shared_norm, SharedParameter, weight_norm, weight_norm_hook),
        *(spectral_norm, spectral_norm_hook, orthogonal, parametrised, masked, weight_standardisation, low_rank),
        *(frozen, all_frozen, Unused, double, DoubleInside, half, Bfloat16Inside, PlainTensor, NotPersistent),
        *(ChannelBuffer, parameter_containers, ExtraState, lazy, scripted, traced, scripted_inside, data_parallel),
        *(compiled, with_hooks, quantisation_aware, sparse, cast),
    )
}
SHAPES = dict.fromkeys(FACTORIES, (3, 16, 16))
