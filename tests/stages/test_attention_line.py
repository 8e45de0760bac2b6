"""Networks with attention go the whole line: pruned, trained, rebuilt in a fresh process, exported."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgeoe
from edgeoe.models.checkpoint import load_student
from edgeoe.pipeline import compress, export
from edgeoe.settings import CompressSettings

TEACHERS = """
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models import VisionTransformer as TorchVisionTransformer


def torchvision_vit() -> nn.Module:
    network = TorchVisionTransformer(16, 4, num_layers=2, num_heads=4, hidden_dim=24, mlp_dim=40, num_classes=3)
    nn.init.normal_(network.heads.head.weight, std=0.1)
    return network


def timm_vit() -> nn.Module:
    return VisionTransformer(16, 4, embed_dim=24, depth=2, num_heads=4, mlp_ratio=2, num_classes=3)


def swin() -> nn.Module:
    return SwinTransformer(
        16, 2, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(4, 8), mlp_ratio=2, num_classes=3
    )
"""
FRESH = """
import json, sys, torch
from edgeoe.models.checkpoint import load_student
from edgeoe.run.directory import Run
print(json.dumps(load_student(Run(sys.argv[1]))(torch.linspace(0, 1, 1536).view(2, 3, 16, 16)).tolist()))
"""


@pytest.mark.parametrize(
    ("teacher", "method", "heads", "within"),
    [
        ("torchvision_vit", "kd", "encoder.layers.encoder_layer_0.self_attention", ("#2", "#3")),
        ("torchvision_vit", "cd", "encoder.layers.encoder_layer_0.self_attention", ("#2", "#3")),
        ("timm_vit", "mir", "blocks.0.attn.qkv", ("#2",)),
        ("swin", "kd", "layers.0.blocks.1.attn.qkv", ("#2",)),
    ],
)
@pytest.mark.usefixtures("fresh_process")
def test_the_whole_line(
    settings: CompressSettings, tmp_path: Path, teacher: str, method: str, heads: str, within: tuple[str, ...]
) -> None:
    file, out = tmp_path / "teachers.py", tmp_path / "run"
    file.write_text(TEACHERS, encoding="utf-8")
    asked = replace(settings, teacher=f"{file}:{teacher}", weights="random", method=method, keep_macs=0.2)
    run = compress(asked, out=out)
    assert run is not None
    assert export(run).agreement == 1.0
    plan = json.loads((out / "student" / "plan.json").read_text())
    assert {heads, *(f"{heads}{number}" for number in within)} <= plan["removed"].keys()
    student = load_student(run)
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH, str(out)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(edgeoe.__file__).parents[1])},
    )  # fmt: skip
    x = torch.linspace(0, 1, 1536).view(2, 3, 16, 16)
    torch.testing.assert_close(torch.tensor(json.loads(fresh.stdout)), student(x))
