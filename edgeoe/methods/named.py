"""The named pairs of a cut and a recovery that edgeoe brings along; `edgeoe.registry.METHODS` lists them."""

from __future__ import annotations

from edgeoe.method import About, Method
from edgeoe.methods.options import (
    BlockOptions,
    ChannelOptions,
    DistillationOptions,
    FeatureOptions,
    LogitOptions,
)

__all__ = ["CD", "FSKD", "KD", "MIR", "NONE", "PRACTISE"]

_CUTS, _RECOVERIES = "edgeoe.methods.cuts", "edgeoe.methods.recoveries"

KD = Method(
    about=About(
        does="prunes channels of least L1 norm, then distils logits and fits the labels",
        needs="prunable channels, labels",
        reference="Li et al., ICLR 2017; Hinton et al., 2015, arXiv 1503.02531",
    ),
    cut=f"{_CUTS}.channels:Channels",
    recovery=f"{_RECOVERIES}.distillation:Distillation",
    options=(ChannelOptions, DistillationOptions),
)
FSKD = Method(
    about=About(
        does="prunes channels of least L1 norm, then solves a 1x1 convolution after each pruned layer; no training",
        needs="prunable channels",
        reference="Li et al., CVPR 2020, arXiv 1812.01839",
    ),
    cut=f"{_CUTS}.channels:Channels",
    recovery=f"{_RECOVERIES}.least_squares:LeastSquares",
    options=(ChannelOptions,),
    trains=False,
)
CD = Method(
    about=About(
        does="chooses channels layer by layer by proximal gradient, teacher and student crossed; a short fine-tuning",
        needs="prunable channels, labels",
        reference="Bai et al., AAAI 2020, arXiv 1911.09450",
    ),
    cut=f"{_CUTS}.crossed_channels:CrossedChannels",
    recovery=f"{_RECOVERIES}.distillation:FineTuning",
    options=(ChannelOptions, LogitOptions),
)
MIR = Method(
    about=About(
        does="prunes channels of least L1 norm, then mimics the features that the teacher's own head classifies",
        needs="prunable channels",
        reference="Wang et al., CVPR 2022, arXiv 2201.02620",
    ),
    cut=f"{_CUTS}.channels:ChannelsBeforeFeatures",
    recovery=f"{_RECOVERIES}.features:FeatureMimicking",
    options=(ChannelOptions, FeatureOptions),
    spares_features=True,
)
PRACTISE = Method(
    about=About(
        does="drops whole residual blocks, ranked by recoverability and measured latency, then mimics features",
        needs="residual blocks that keep their input's shape; the runtime of --target on this machine",
        reference="Wang and Wu, CVPR 2023, arXiv 2202.07861",
    ),
    cut=f"{_CUTS}.blocks:Blocks",
    recovery=f"{_RECOVERIES}.features:FeatureMimicking",
    options=(BlockOptions, FeatureOptions),
    to_budget=frozenset({"blocks"}),
    spares_features=True,
)
NONE = Method(
    about=About(
        does="nothing: the teacher itself, as a baseline for every later stage",
        needs="nothing",
        reference="",
    ),
    cut=f"{_CUTS}.nothing:Nothing",
    recovery=f"{_RECOVERIES}.nothing:Nothing",
    keeps=1.0,
    to_budget=frozenset(),
    trains=False,
)
