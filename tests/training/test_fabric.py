"""Devices, precision and processes. Two processes on one CPU must make the student that one makes."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from layers import layer_of
from safetensors.torch import load_file

from edgeoe.errors import ConfigError, TeacherError
from edgeoe.pipeline import compress
from edgeoe.settings import CompressSettings, OESettings
from edgeoe.training.batchnorm import SynchronisedBatchNorm
from edgeoe.training.fabric import automatic_precision, new_fabric, synchronised_batchnorm, with_native_sync

FABRIC = ("accelerator", "devices", "num_nodes", "strategy", "precision")
LR = 0.005  # steps amplify rounding: at 0.05 six of them make a part in 10^7 one in 300
ROUNDING = 1e-3  # of a tensor's greatest weight: it is 2e-5 with LR; statistics that are not shared make it 0.17


@pytest.fixture(autouse=True)
def without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two processes share the cores


def assert_same_student(one: Path, other: Path) -> None:
    first, second = (load_file(run / "student" / "weights.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert any(key.endswith("running_var") for key in first)
    for key, tensor in first.items():
        assert tensor.shape == second[key].shape
        far = float((tensor.double() - second[key].double()).abs().max())
        assert far <= ROUNDING * float(tensor.double().abs().max()), key


# What new_fabric refuses


def test_cuda_is_refused_where_there_is_none(settings: CompressSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"--accelerator cuda: no CUDA device here\. Use --accelerator cpu"):
        new_fabric(replace(settings, accelerator="cuda"))


def test_more_devices_than_there_are_is_refused(settings: CompressSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"--processes 2: this machine has 1 CUDA device\(s\)"):
        new_fabric(replace(settings, accelerator="cuda", processes=2))


def test_fp16_is_refused_on_the_cpu(settings: CompressSettings) -> None:
    with pytest.raises(ConfigError, match=r"--precision fp16: the CPU trains in fp32 or bf16"):
        new_fabric(replace(settings, precision="fp16"))


def test_bf16_is_refused_where_it_would_be_emulated(
    settings: CompressSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeoe.training.fabric.automatic_precision", lambda accelerator: "fp32")
    with pytest.raises(ConfigError, match="--precision bf16: this accelerator computes no bf16"):
        new_fabric(replace(settings, precision="bf16"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 9}, r"batch must be a multiple of the 2 processes\. Got 9\."),
        ({"oe_settings": OESettings(ood_batch=7)}, r"\[oe\] ood_batch must be a multiple of the 2 processes\. Got 7\."),
    ],
    ids=["batch", "ood_batch"],
)
def test_a_batch_that_processes_cant_share_is_refused(
    changes: dict[str, Any], message: str, settings: CompressSettings
) -> None:
    with pytest.raises(ConfigError, match=message):
        new_fabric(replace(settings, processes=2, **changes))


def test_several_nodes_need_torchrun(settings: CompressSettings) -> None:
    with pytest.raises(ConfigError, match=r"--nodes 2: start edgeoe on every node with torchrun --nnodes 2"):
        new_fabric(replace(settings, nodes=2))


def test_torchrun_says_how_many_processes_there_are(
    settings: CompressSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "a"), ("LOCAL_WORLD_SIZE", "3"), ("WORLD_SIZE", "6")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"batch must be a multiple of the 6 processes\. Got 8\."):
        new_fabric(replace(settings, batch=8))


# What it makes


@pytest.mark.parametrize(("best", "expected"), [("bf16", "bf16-mixed"), ("fp32", "32-true")])
def test_automatic_precision_is_the_best_of_the_device(
    best: str, expected: str, settings: CompressSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeoe.training.fabric.automatic_precision", lambda accelerator: best)
    assert new_fabric(replace(settings, precision="auto"))._precision.precision == expected


def test_automatic_precision_knows_this_cpu() -> None:
    assert automatic_precision("cpu") in ("bf16", "fp32")


def test_one_process_needs_no_synchronisation(settings: CompressSettings) -> None:
    fabric = new_fabric(settings)
    model = torch.nn.BatchNorm2d(3)
    assert fabric.world_size == 1
    assert with_native_sync(fabric, model) is model
    with synchronised_batchnorm(fabric) as context:
        assert not isinstance(context, SynchronisedBatchNorm)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every Fabric that is made is asked for; none is. There are four CUDA devices here."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("edgeoe.training.fabric.Fabric", lambda **asked: made.append(asked))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    return made


@pytest.mark.parametrize(
    ("changes", "fabric"),
    [
        ({"accelerator": "cpu"}, ("cpu", 1, 1, "auto", "32-true")),
        ({"accelerator": "cpu", "processes": 2}, ("cpu", 2, 1, "ddp_spawn", "32-true")),
        ({"accelerator": "cuda"}, ("cuda", 1, 1, "auto", "32-true")),
        ({"accelerator": "auto", "processes": 4}, ("cuda", 4, 1, "ddp_spawn", "32-true")),
        ({"accelerator": "cuda", "precision": "bf16"}, ("cuda", 1, 1, "auto", "bf16-mixed")),
        ({"accelerator": "cuda", "precision": "fp16"}, ("cuda", 1, 1, "auto", "16-mixed")),
        ({"accelerator": "cuda", "precision": "auto"}, ("cuda", 1, 1, "auto", "bf16-mixed")),
    ],
)
def test_fabric_is_asked_for_what_the_settings_say(
    changes: dict[str, Any], fabric: tuple[Any, ...], settings: CompressSettings, asked: list[dict[str, Any]]
) -> None:
    new_fabric(replace(settings, **changes))
    assert [tuple(one[key] for key in FABRIC) for one in asked] == [fabric]


def test_fabric_does_not_announce_what_was_asked_for(settings: CompressSettings, asked: list[dict[str, Any]]) -> None:
    loggers = [logging.getLogger(name) for name in ("lightning_fabric", "lightning.fabric")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    new_fabric(settings)
    assert [logger.level for logger in loggers] == [logging.ERROR] * 2


def test_torchruns_processes_are_joined_with_ddp(
    settings: CompressSettings, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for local, world in (("2", "4"), ("1", "1")):
        for name, value in (("TORCHELASTIC_RUN_ID", "a"), ("LOCAL_WORLD_SIZE", local), ("WORLD_SIZE", world)):
            monkeypatch.setenv(name, value)
        new_fabric(replace(settings, processes=3, nodes=5, accelerator="cpu"))
    assert [tuple(one[key] for key in FABRIC) for one in asked] == [
        ("cpu", 2, 2, "ddp", "32-true"),
        ("cpu", 1, 1, "auto", "32-true"),
    ]


@pytest.mark.parametrize(
    ("accelerator", "has_bf16", "best"),
    [("cuda", True, "bf16"), ("cuda", False, "fp16"), ("cpu", True, "bf16"), ("cpu", False, "fp32")],
)
def test_automatic_precision_is_what_the_device_computes_in(
    accelerator: Any, has_bf16: bool, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    assert automatic_precision(accelerator) == best


def test_automatic_precision_without_a_probe_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert automatic_precision("cpu") == "fp32"


@pytest.mark.parametrize(
    ("world_size", "device", "ours", "torchs"),
    [(1, "cpu", False, False), (2, "cpu", True, False), (1, "cuda", False, False), (2, "cuda", False, True)],
)
def test_several_processes_share_batch_statistics_in_one_way(
    world_size: int, device: str, ours: bool, torchs: bool
) -> None:
    fabric: Any = SimpleNamespace(world_size=world_size, device=torch.device(device))
    assert isinstance(synchronised_batchnorm(fabric), SynchronisedBatchNorm) is ours
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    assert isinstance(layer_of(with_native_sync(fabric, model), "0"), torch.nn.SyncBatchNorm) is torchs


# Processes


def test_two_processes_make_the_student_that_one_makes(settings: CompressSettings, tmp_path: Path) -> None:
    for processes in (1, 2):
        asked = replace(settings, options={"lr": LR}, processes=processes)
        assert compress(asked, out=tmp_path / str(processes)) is not None
    assert_same_student(tmp_path / "1", tmp_path / "2")


def test_an_error_crosses_from_process_to_process_whole(settings: CompressSettings, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"--weights gone\.safetensors: no such file\."):
        compress(replace(settings, processes=2, weights=Path("gone.safetensors")), out=tmp_path / "run")
    assert not list(tmp_path.iterdir()), "nothing half-written is left"


def test_torchrun_makes_one_run(settings: CompressSettings, tmp_path: Path) -> None:
    (tmp_path / "edgeoe.toml").write_text(
        "[preprocess]\nsize = [16, 16]\nmean = [0.4, 0.4, 0.4]\nstd = [0.3, 0.3, 0.3]\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "edgeoe", "compress", "--teacher", settings.teacher, "--weights", str(settings.weights)),
            *("--samples", str(settings.samples), "--no-oe", "--steps", "6", "--batch", "8", "--lr", str(LR)),
            *("--accelerator", "cpu", "--precision", "fp32", "--channel-multiple", "1", "--out", "run"),
        ],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "next:" in line] == ["next: edgeoe export run"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edgeoe.toml", "run"]
    assert compress(replace(settings, oe=False, options={"lr": LR}), out=tmp_path / "alone") is not None
    assert_same_student(tmp_path / "alone", tmp_path / "run")
