"""Small real things that many tests share: a teacher file, images on disk, a finished run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
from PIL import Image

from edgeoe.settings import CompressSettings, PreprocessSettings

if TYPE_CHECKING:
    from torch import nn

    from edgeoe.pruning.prune import Pruned

Shape = tuple[int, int, int]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch, not yet imported, would fight other workers for the cores
hypothesis.settings.register_profile(  # a busy machine is no failure
    "edgeoe", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("edgeoe")

CLASSES = ("circle", "cross", "square")
COUNTS = (12, 5, 1)  # few samples per class, imbalanced


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """A 16x16 RGB picture of one class: a bright shape, anywhere, on a dark noisy ground."""
    pixels = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
    y, x = np.mgrid[:16, :16]
    cy, cx = rng.integers(6, 10, 2)
    shapes = {
        "circle": np.abs(np.hypot(y - cy, x - cx) - 4) < 1,
        "cross": (np.abs(y - cy) < 1) | (np.abs(x - cx) < 1),
        "square": (np.abs(y - cy) < 4) & (np.abs(x - cx) < 4),
    }
    pixels[shapes[kind]] = rng.integers(180, 255, 3)
    return Image.fromarray(pixels)


def write_classes(folder: Path, counts: tuple[int, ...], *, seed: int) -> Path:
    """A folder per class with that many PNG images."""
    rng = np.random.default_rng(seed)
    for kind, count in zip(CLASSES, counts, strict=True):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            draw(kind, rng).save(folder / kind / f"{number:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def _messages_speak_of_options() -> Iterator[None]:
    """What a module says is written for the command line; tests of the Python API turn this off."""
    from edgeoe.errors import on_command_line

    with on_command_line():
        yield


@pytest.fixture(autouse=True)
def _without_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests write need not survive a power failure, and flushing it takes ten milliseconds a file."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="session", autouse=True)
def _vouches_in_a_folder_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests' machine vouches for is noted apart from what the user's does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From here on this is a machine that vouches for nothing. Returns the folder that its notes go to."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data of another"))
    monkeypatch.setattr("edgeoe.vouching._by_this_process", set())
    return tmp_path / "data of another" / "edgeoe" / "trusted"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """`keys(name)`: a private key of its own for each name, and its public one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")

    def pair(name: str) -> tuple[Path, Path]:
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        if not private.is_file():
            key = ec.generate_private_key(ec.SECP256R1())
            pem = serialization.Encoding.PEM
            private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
            public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
        return private, public

    return pair


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with a folder per class, and ood/ with 60 mixed pictures. Read only."""
    folder = tmp_path_factory.mktemp("pictures")
    write_classes(folder / "train", COUNTS, seed=1)
    write_classes(folder / "test", (10, 10, 10), seed=2)
    (folder / "ood" / "deep").mkdir(parents=True)
    rng = np.random.default_rng(3)
    for number in range(60):
        shape = (int(rng.integers(12, 40)), int(rng.integers(12, 40)), 3)
        place = folder / "ood" / ("deep" if number % 2 else "")
        Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(place / f"{number:02d}.jpg")
    return folder


@pytest.fixture(scope="session")
def _in_fresh_process() -> Iterator[Callable[[Path], str]]:
    """What rebuilds a teacher in a fresh process. A start takes seconds: tests rebuild it in this one."""
    from edgeoe.models import rebuild

    original = rebuild._in_fresh_process
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rebuild, "_in_fresh_process", rebuild.main)
        yield original


@pytest.fixture
def fresh_process(_in_fresh_process: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers are rebuilt in a fresh process, as users have it."""
    monkeypatch.setattr("edgeoe.models.rebuild._in_fresh_process", _in_fresh_process)


@pytest.fixture(scope="session")
def teacher_file(_in_fresh_process: object) -> Path:
    """A user's own file with factories of small networks; see its docstring."""
    return Path(__file__).parent / "networks.py"


def lived_in(model: nn.Module) -> nn.Module:
    """`model`, frozen and in eval mode, its batch norms with random statistics, scales and shifts."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def shape_of() -> Callable[[str], Shape]:
    """`shape_of(name)`: (C, H, W) that the network takes; published ones as small as their strides allow."""

    def shape(name: str) -> Shape:
        side = 160 if name == "timm:test_vit" else 64 if ":" in name else 16
        return (3, side, side)

    return shape


@pytest.fixture(scope="session")
def network(teacher_file: Path) -> Callable[[str], nn.Module]:
    """`network(name)`: one of networks.py, timm: or torchvision:, three classes, random but always the same."""
    import torch

    from edgeoe.models.teacher import TeacherSource

    def build(name: str) -> nn.Module:
        torch.manual_seed(0)
        return lived_in(TeacherSource.parse(name if ":" in name else f"{teacher_file}:{name}").build(3))

    return build


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, teacher_file: Path) -> Path:
    """Weights of networks.py:residual, random but fixed, as safetensors."""
    import torch
    from safetensors.torch import save_model

    from edgeoe.models.teacher import TeacherSource

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "residual.safetensors"
    save_model(TeacherSource.parse(f"{teacher_file}:residual").build(len(CLASSES)), str(path))
    return path


@pytest.fixture(scope="session")
def quick_timing() -> Iterator[None]:
    """Students are timed beside their teachers in as few turns as say anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeoe.stages.speedup._SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def settings(pictures: Path, teacher_file: Path, weights: Path, quick_timing: None) -> CompressSettings:
    """Settings of a compression that takes a second."""
    return CompressSettings(
        teacher=f"{teacher_file}:residual",
        weights=weights,
        samples=pictures / "train",
        ood=pictures / "ood",
        channel_multiple=1,  # so narrow a network meets a share by single channels alone
        steps=6,
        batch=8,
        accelerator="cpu",
        precision="fp32",
        preprocess=PreprocessSettings(size=(16, 16), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3)),
    )


@pytest.fixture(scope="session")
def _exported(tmp_path_factory: pytest.TempPathFactory, settings: CompressSettings) -> Path:
    from edgeoe.pipeline import compress, export

    path = tmp_path_factory.mktemp("runs") / "exported"
    run = compress(replace(settings, seed=1), out=path)
    assert run is not None
    export(run)
    return path


@pytest.fixture
def exported(_exported: Path, tmp_path: Path) -> Path:
    """A run that was compressed and exported; the test's own copy, to change as it likes."""
    return shutil.copytree(_exported, tmp_path / "run")


@pytest.fixture
def edgeoe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`edgeoe(*arguments)` runs the command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from edgeoe.cli import main

        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def pruned(network: Callable[[str], nn.Module], shape_of: Callable[[str], Shape]) -> Callable[..., Pruned]:
    """`pruned(name)`: that network, cut to half of its MACs unless told; made once a session, so read only."""
    from edgeoe.pruning.prune import prune_channels

    made: dict[tuple[str, float], Pruned] = {}

    def prune(name: str, keep_macs: float | None = None) -> Pruned:
        keep_macs = keep_macs or (0.8 if name == "timm:test_vit" else 0.5)  # of which attention is half
        if (name, keep_macs) not in made:
            made[name, keep_macs] = prune_channels(network(name), shape=shape_of(name), keep=keep_macs)
        return made[name, keep_macs]

    return prune
