"""Networks of other people's packages, for tools/bench_architectures: none of their code is part of this repository.

tools/outside_requirements.txt names the packages. Every network has random weights; those of transformers and
vit-pytorch are small configurations. FACTORIES maps names to callables that take `num_classes`, SHAPES to
(channels, height, width); each factory is an attribute of this module as well, for FILE.py:NAME.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import Any

from torch import nn

__all__ = ["FACTORIES", "SHAPES"]

Factory = Callable[[int], nn.Module]


def _pytorchcv(name: str, num_classes: int) -> nn.Module:
    network: nn.Module = import_module("pytorchcv.model_provider").get_model(name, num_classes=num_classes)
    return network


def _called(path: str, num_classes: int, *, classes_as: str = "num_classes", **options: Any) -> nn.Module:
    """What the callable at `path`, such as "package.module:function", returns for this number of classes."""
    module, _, name = path.partition(":")
    network: nn.Module = attrgetter(name)(import_module(module))(**options, **{classes_as: num_classes})
    return network


def _transformers(kind: str, num_classes: int, **options: Any) -> nn.Module:
    """An image classifier of transformers with random weights; its output is an object with `logits`.

    kind: what its config and its class begin with.
    """
    package = import_module("transformers")
    config = getattr(package, f"{kind}Config")(num_labels=num_classes, **options)
    network: nn.Module = getattr(package, f"{kind}ForImageClassification")(config)
    return network


def _factory(build: Callable[..., nn.Module], first: str, options: dict[str, Any]) -> Factory:
    def network(num_classes: int) -> nn.Module:
        return build(first, num_classes, **options)

    return network


_PYTORCHCV = (  # the smallest of each family
    *("bninception", "resnet18_wd4", "preresnet18_wd4", "resnext14_32x2d", "seresnet10", "sepreresnet10"),
    *("resnestabc14", "airnet50_1x64d_r16", "bam_resnet18", "cbam_resnet18", "scnet50", "regnetx002", "regnety002"),
    *("diaresnet10", "sharesnet18", "diracnet18v2", "condensenet74_c8_g8", "sparsenet121", "peleenet", "drnc26"),
    *("dpn68", "darknet_tiny", "channelnet", "revnet38", "bagnet9", "dla46c", "espnetv2_wd2", "dicenet_wd5"),
    *("hrnet_w18_small_v1", "vovnet27s", "selecsls42", "hardnet39ds", "squeezenet_v1_1", "squeezeresnet_v1_1"),
    *("sqnxt23v5_w1", "shufflenet_g1_wd4", "shufflenetv2_wd2", "menet108_8x1_g3", "mobilenet_wd4", "mobilenetb_wd4"),
    *("fdmobilenet_wd4", "mobilenetv2_wd4", "mobilenetv3_small_w7d20", "igcv3_wd4", "ghostnet", "mnasnet_small"),
    *("darts", "proxylessnas_cpu", "fbnet_cb", "spnasnet", "efficientnet_b0", "efficientnet_edge_small_b"),
    *("mixnet_s", "nasnet_4a1056", "isqrtcovresnet18", "resneta10", "octresnet10_ad2", "tresnet_m"),
)
_PYTORCHCV_CIFAR = (
    *("nin_cifar10", "resnet20_cifar10", "preresnet20_cifar10", "resnext20_16x4d_cifar10", "seresnet20_cifar10"),
    *("pyramidnet110_a48_cifar10", "densenet40_k12_bc_cifar10", "xdensenet40_2_k24_bc_cifar10", "ror3_56_cifar10"),
    *("rir_cifar10", "resdropresnet20_cifar10", "shakeshakeresnet20_2x16d_cifar10", "shakedropresnet20_cifar10"),
    *("diaresnet20_cifar10", "wrn20_10_1bit_cifar10"),
)
_VIT = {"image_size": 64, "patch_size": 8, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}
_VIT_PYTORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit:ViT", _VIT),
    "simple_vit": ("simple_vit:SimpleViT", _VIT),
    "simple_vit_registers": ("simple_vit_with_register_tokens:SimpleViT", _VIT),
    "simple_vit_fft": ("simple_vit_with_fft:SimpleViT", {**_VIT, "freq_patch_size": 8}),
    "vit_small_data": ("vit_for_small_dataset:ViT", _VIT),
    "vit_patch_merger": ("vit_with_patch_merger:ViT", {**_VIT, "patch_merge_layer": 1}),
    "vit_parallel": ("parallel_vit:ViT", _VIT),
    "deepvit": ("deepvit:DeepViT", _VIT),
    "rvt": ("rvt:RvT", _VIT),
    "pit": ("pit:PiT", {**_VIT, "dim": 32, "depth": (1, 1)}),
    "cait": ("cait:CaiT", {**_VIT, "cls_depth": 1}),
    "xcit": ("xcit:XCiT", {**_VIT, "cls_depth": 1}),
    "t2t": (
        "t2t:T2TViT",
        {"image_size": 64, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128, "t2t_layers": ((7, 4), (3, 2))},
    ),
    "cct": ("cct:CCT", {"img_size": (64, 64), "embedding_dim": 64, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0}),
    "cvt": ("cvt:CvT", {"s1_emb_dim": 16, "s2_emb_dim": 32, "s3_emb_dim": 64, "s3_depth": 2}),
    "levit": (
        "levit:LeViT",
        {"image_size": 64, "dim": (32, 48, 64), "depth": 1, "heads": (2, 3, 4), "mlp_mult": 2},
    ),
    "mobile_vit": (
        "mobile_vit:MobileViT",
        {"image_size": (64, 64), "dims": [32, 48, 64], "channels": [16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 128]},
    ),
    "max_vit": ("max_vit:MaxViT", {"dim": 32, "depth": (1, 1), "dim_head": 8, "window_size": 4}),
    "nest": (
        "nest:NesT",
        {"image_size": 64, "patch_size": 4, "dim": 32, "heads": 2, "num_hierarchies": 2, "block_repeats": (1, 1)},
    ),
    "twins_svt": (
        "twins_svt:TwinsSVT",
        {
            **{f"s{k}_emb_dim": 16 * k for k in (1, 2, 3, 4)},
            **{f"s{k}_local_patch_size": 4 for k in (1, 2, 3)},
            "s3_depth": 1,
        },
    ),
    "crossformer": ("crossformer:CrossFormer", {"dim": (32, 64, 128, 256), "depth": (1, 1, 1, 1)}),
    "cross_vit": (
        "cross_vit:CrossViT",
        {"image_size": 64, "sm_dim": 32, "lg_dim": 64, "sm_patch_size": 8, "lg_patch_size": 16, "depth": 1}
        | {"sm_enc_heads": 4, "lg_enc_heads": 4, "sm_enc_mlp_dim": 64, "lg_enc_mlp_dim": 128},
    ),
    "regionvit": ("regionvit:RegionViT", {"dim": (16, 32, 64, 128), "depth": (1, 1, 1, 1)}),
    "scalable_vit": (
        "scalable_vit:ScalableViT",
        {"dim": 32, "heads": (2, 4), "depth": (1, 1), "ssa_dim_key": 16, "reduction_factor": (2, 1)}
        | {"window_size": (8, None)},
    ),
    "sep_vit": ("sep_vit:SepViT", {"dim": 16, "dim_head": 16, "depth": (1, 1), "heads": (1, 2)}),
}
_VIT_SHAPES = {"cvt": 64, "crossformer": 224, "regionvit": 224, "sep_vit": 112, "twins_svt": 256}
_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "patch_size": 8}
_WIDER = {**_SMALL, "intermediate_size": 128}
_WINDOWS = {"image_size": 64, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
_WIDE_STAGES = {"embedding_size": 64, "hidden_sizes": [64, 128, 192, 256], "depths": [1, 1, 1, 1]}
_HEADS = {"num_attention_heads": [1, 2, 3, 4]}
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ViT": _WIDER,
    "DeiT": _WIDER,
    "Beit": _WIDER,
    "Dinov2": _SMALL,
    "Dinov2WithRegisters": _SMALL,
    "Swin": _WINDOWS,
    "Swinv2": _WINDOWS,
    "ConvNext": _STAGES,
    "ConvNextV2": _STAGES,
    "ResNet": _WIDE_STAGES,
    "RegNet": {**_WIDE_STAGES, "groups_width": 16},
    "Bit": {**_WIDE_STAGES, "num_groups": 16},
    "MobileNetV1": {"depth_multiplier": 0.25, "image_size": 64},
    "MobileNetV2": {"depth_multiplier": 0.35, "image_size": 64},
    "MobileViT": {"hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96], "image_size": 64},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.5},
    "Levit": {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}
    | {"key_dim": [8, 8, 8]},
    "PoolFormer": _STAGES,
    "EfficientNet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "image_size": 64, "hidden_dim": 640},
    "PvtV2": {**_STAGES, **_HEADS, "image_size": 64},
    "FocalNet": {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]},
    "Segformer": {**_STAGES, **_HEADS},
    "SwiftFormer": {"embed_dims": [24, 32, 48, 64], "depths": [1, 1, 1, 1], "image_size": 64},
    "HGNetV2": {},
}
_TRANSFORMERS_SHAPES = {"HGNetV2": 224}
_OTHERS: dict[str, tuple[int, str, dict[str, Any]]] = {  # size of an image, callable, its options
    "geffnet_mnasnet_small": (96, "geffnet:mnasnet_small", {}),
    "geffnet_mobilenetv3_small": (96, "geffnet:mobilenetv3_small_075", {}),
    "geffnet_efficientnet_lite0": (96, "geffnet:efficientnet_lite0", {}),
    "geffnet_mixnet_s": (96, "geffnet:mixnet_s", {}),
    "efficientnet_pytorch_b0": (96, "efficientnet_pytorch:EfficientNet.from_name", {"model_name": "efficientnet-b0"}),
    "efficientnet_lite_pytorch_lite0": (
        96,
        "efficientnet_lite_pytorch:EfficientNet.from_name",
        {"model_name": "efficientnet-lite0"},
    ),
    "monai_densenet": (
        64,
        "monai.networks.nets:DenseNet",
        {"spatial_dims": 2, "in_channels": 3, "init_features": 16, "growth_rate": 8, "block_config": (2, 3, 2)}
        | {"classes_as": "out_channels"},
    ),
    "monai_seresnet50": (64, "monai.networks.nets:SEResNet50", {"spatial_dims": 2, "in_channels": 3}),
    "monai_efficientnet_b0": (
        64,
        "monai.networks.nets:EfficientNetBN",
        {"model_name": "efficientnet-b0", "pretrained": False, "spatial_dims": 2, "in_channels": 3},
    ),
    "pretrainedmodels_bninception": (224, "pretrainedmodels.models:bninception", {"pretrained": None}),
    "pretrainedmodels_nasnetamobile": (224, "pretrainedmodels.models:nasnetamobile", {"pretrained": None}),
}

FACTORIES: dict[str, Factory] = {
    **{f"pytorchcv_{name}": _factory(_pytorchcv, name, {}) for name in (*_PYTORCHCV, *_PYTORCHCV_CIFAR)},
    **{
        f"vit_pytorch_{name}": _factory(_called, f"vit_pytorch.{path}", options)
        for name, (path, options) in _VIT_PYTORCH.items()
    },
    **{
        f"transformers_{kind.lower()}": _factory(_transformers, kind, options)
        for kind, options in _TRANSFORMERS.items()
    },
    **{name: _factory(_called, path, options) for name, (_, path, options) in _OTHERS.items()},
}
_SIZES = {
    **{f"pytorchcv_{name}": 224 for name in _PYTORCHCV},
    **{f"vit_pytorch_{name}": _VIT_SHAPES.get(name, 64) for name in _VIT_PYTORCH},
    **{f"transformers_{kind.lower()}": _TRANSFORMERS_SHAPES.get(kind, 64) for kind in _TRANSFORMERS},
    **{name: size for name, (size, _, _) in _OTHERS.items()},
}
SHAPES = {name: (3, _SIZES.get(name, 32), _SIZES.get(name, 32)) for name in FACTORIES}
globals().update(FACTORIES)
