"""What the campaigns compress and measure with: a network of three layers, and a profile that takes a moment."""

from __future__ import annotations

__all__ = ["NETWORK", "QUICK"]

NETWORK = """\
from torch import nn

def conv(inputs, outputs, stride):
    layers = nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    return nn.Sequential(*layers)

def net():
    layers = [conv(3, 8, 1), conv(8, 16, 2), conv(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers)
"""
QUICK = """\
backend = "onnxruntime"
description = "a quick look"

[measure]
processes = 2
warmup_seconds = 0
warmup_max_seconds = 0
min_seconds = 0.02
min_iterations = 20
max_variation = 1e6
max_foreign_load = 1e6
"""
