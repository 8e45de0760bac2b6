"""Which machines are the device of a profile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeoe.errors import TargetError
from edgeoe.targets import here
from edgeoe.targets.here import bundle_command, differences, has_words, is_of_every_machine, not_measured, require_here
from edgeoe.targets.load import find_targets, load_target
from edgeoe.targets.profile import DeviceFacts, RuntimeSettings, Target

X86 = {"machine": "x86_64", "cpu": "AMD EPYC"}
GPU = {**X86, "driver": "570.1"}
ARM = {"machine": "aarch64", "cpu": "Cortex-A76"}
JETSON = {"machine": "aarch64", "cpu": "ARMv8 Processor rev 1 (v8l)", "power_mode": "25W"}
DEVICES: dict[str, list[dict[str, Any]]] = {  # machines that are the device, as they call themselves
    "host-cpu": [X86, ARM, {**ARM, "machine": "arm64"}, {}],
    "raspberry-pi-5": [{**ARM, "board": f"Raspberry Pi 5 Model B Rev 1.{revision}"} for revision in (0, 1)],
    "intel-n100": [{"machine": "x86_64", "cpu": "Intel(R) N100"}, {"machine": "AMD64", "cpu": "Intel(R) N100"}],
    "intel-n100-openvino": [{"machine": "x86_64", "cpu": "Intel(R) N100"}],
    "jetson-orin-nano": [
        {**JETSON, "board": "NVIDIA Jetson Orin Nano Developer Kit"},
        {**JETSON, "board": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"},
    ],
    "jetson-orin-nx": [
        {**JETSON, "board": "NVIDIA Orin NX Developer Kit"},
        {**JETSON, "board": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"},
    ],
    "jetson-agx-orin": [{**JETSON, "board": "NVIDIA Jetson AGX Orin Developer Kit"}],
    "jetson-thor": [{"machine": "aarch64", "board": "NVIDIA Jetson AGX Thor Developer Kit"}],
    "jetson-xavier-nx": [{**JETSON, "board": "NVIDIA Jetson Xavier NX Developer Kit"}],
    "t4": [{**GPU, "gpu": "Tesla T4"}],
    "l4": [{**GPU, "gpu": "NVIDIA L4"}],
    "rtx-40": [{**GPU, "gpu": f"NVIDIA GeForce RTX {name}"} for name in ("4090", "4070 Ti SUPER", "4060 Laptop GPU")],
    "rtx-50": [{**GPU, "gpu": f"NVIDIA GeForce RTX {name}"} for name in ("5090", "5070 Ti")],
}


def test_every_shipped_profile_knows_its_devices_and_no_other() -> None:
    assert set(DEVICES) == set(find_targets())
    alike = {"intel-n100", "intel-n100-openvino"}
    for name in DEVICES:
        target = load_target(name)
        for owner, machines in DEVICES.items():
            for facts in machines:
                is_device = name in ("host-cpu", owner) or {name, owner} <= alike
                assert (differences(target, facts) == ()) == is_device, (name, facts)


@pytest.mark.parametrize(
    ("name", "facts", "told"),
    [
        ("raspberry-pi-5", X86, "this is x86_64 (AMD EPYC), raspberry-pi-5 is aarch64"),
        ("raspberry-pi-5", {"machine": "x86_64", "cpu": "x86_64"}, "this is x86_64, raspberry-pi-5 is aarch64"),
        ("raspberry-pi-5", {}, "this is of an unknown architecture, raspberry-pi-5 is aarch64"),
        (
            "raspberry-pi-5",
            ARM,
            "no device tree tells which board this is (a container may hide it), raspberry-pi-5 is for Raspberry Pi 5",
        ),
        (
            "raspberry-pi-5",
            {**ARM, "board": "Raspberry Pi 4 Model B Rev 1.4"},
            "this board is Raspberry Pi 4 Model B Rev 1.4, raspberry-pi-5 is for Raspberry Pi 5",
        ),
        ("intel-n100", X86, "this processor is AMD EPYC, intel-n100 is for N100"),
        ("t4", X86, "nvidia-smi finds no GPU here, t4 is for T4"),
        ("l4", {**GPU, "gpu": "NVIDIA L40S"}, "this GPU is NVIDIA L40S, l4 is for L4"),
    ],
)
def test_the_first_difference_is_told(name: str, facts: dict[str, Any], told: str) -> None:
    assert differences(load_target(name), facts) == (told,)
    assert not_measured([told]) == f"not measured here: {told}"


def test_of_another_architecture_nothing_else_is_told() -> None:
    facts = {"machine": "x86_64", "board": "A board", "cpu": "A CPU"}
    everything = DeviceFacts(machine="arm64", board_model="Rock 5B", cpu="Cortex-A76", gpu="RTX A2000")
    target = Target(name="mine", backend="onnxruntime", device=everything)
    assert differences(target, facts) == ("this is x86_64 (A CPU), mine is aarch64",)
    assert len(differences(target, {**facts, "machine": "aarch64"})) == 3


@pytest.mark.parametrize(
    "says",
    [{"board": "raspberry-pi-5"}, {"machine": "x86_64"}, {"board_model": "Rock"}, {"cpu": "N100"}, {"gpu": "T4"}],
)
def test_a_profile_that_says_nothing_of_its_device_is_of_every_machine(says: dict[str, Any]) -> None:
    target = Target(name="mine", backend="onnxruntime")
    assert is_of_every_machine(target)
    assert not is_of_every_machine(replace(target, device=DeviceFacts(**says)))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_what_runs_on_an_nvidia_gpu_needs_one(provider: Any) -> None:
    for target in (
        Target(name="mine", backend="tensorrt"),
        Target(name="mine", backend="onnxruntime", runtime=RuntimeSettings(provider=provider)),
    ):
        assert differences(target, X86) == ("this machine has no NVIDIA GPU, mine runs on one",)
        for fact in (
            {"gpu": "Tesla T4"},
            {"driver": "570.1"},
            {"power_mode": "25W"},
            {"jetson_clocks": True},
            {"board": "NVIDIA Orin Nano"},
            {"board": "Jetson-AGX"},
        ):
            assert differences(target, {**ARM, **fact}) == (), fact


@pytest.mark.parametrize(
    ("name", "words", "has"),
    [
        ("Tesla T4", "T4", True),
        ("Tesla T4", "t4", True),
        ("NVIDIA T400", "T4", False),
        ("NVIDIA L40S", "L4", False),
        ("NVIDIA GeForce RTX 4090", "RTX 40??", True),
        ("NVIDIA RTX 4000 Ada Generation", "GeForce RTX 40??", False),
        ("Raspberry Pi 500 Rev 1.0", "Raspberry Pi 5", False),
        ("Intel(R) Core(TM) i3-N305", "*-N305", True),
        ("", "T4", False),
    ],
)
def test_words_are_whole(name: str, words: str, has: bool) -> None:
    assert has_words(name, words) is has


def test_facts_that_a_device_sent_may_be_anything() -> None:
    assert differences(load_target("raspberry-pi-5"), {"machine": 5, "board": None}) != ()


def test_a_target_elsewhere_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "environment", lambda: X86)
    require_here(load_target("host-cpu"), way_out="Anything.")
    with pytest.raises(TargetError) as raised:
        require_here(replace(load_target("t4"), name="mine"), way_out="Go there.")
    assert str(raised.value) == (
        "target mine: not measured here: nvidia-smi finds no GPU here, mine is for T4. Go there."
    )


def test_the_command_that_leads_to_the_device_can_be_pasted() -> None:
    assert bundle_command("my runs/a", "t4") == "edgeoe bundle 'my runs/a' --target t4 -o t4.tar.gz --test DIR"
    told = bundle_command("a", "my profiles/pi.toml")
    assert told == "edgeoe bundle a --target 'my profiles/pi.toml' -o pi.tar.gz --test DIR"
