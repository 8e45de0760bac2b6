"""Multiply-accumulates of operators that torch's own counter leaves out."""

import torch
from torch import nn
from torchvision.ops import DeformConv2d

from edgeoe.pruning.macs import counting_macs


def test_a_fused_lstm_is_counted() -> None:
    with torch.no_grad(), counting_macs() as counter:
        nn.LSTM(4, 3, bidirectional=True)(torch.zeros(5, 2, 4))
    assert counter.get_total_flops() == 2 * 2 * 5 * 2 * (4 * 3) * (4 + 3)


def test_a_deformable_convolution_is_counted() -> None:
    with torch.no_grad(), counting_macs() as counter:
        DeformConv2d(4, 6, 3, padding=1, groups=2)(torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 5, 5))
    assert counter.get_total_flops() == 2 * 5 * 5 * 6 * 2 * 9
