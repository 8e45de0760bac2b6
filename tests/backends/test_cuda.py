"""The calls of the CUDA driver, on a stand-in for its library."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from backends.fake_device import FakeDevice

from edgeoe.backends.cuda import SIGNATURES, open_device
from edgeoe.errors import BackendError


def test_it_tells_what_the_device_is(device: FakeDevice) -> None:
    with open_device() as cuda:
        found = cuda.device()
    assert (found.name, found.compute_capability, found.cuda) == ("Stub (nvgpu)", "8.7", "12.6")
    assert re.fullmatch(r"unknown|\d+(\.\d+)+", found.driver)


def test_what_is_copied_in_is_copied_out(device: FakeDevice) -> None:
    sent, received = np.arange(12, dtype=np.float32).reshape(3, 4), np.zeros((3, 4), np.float32)
    with open_device() as cuda:
        address = cuda.allocate(sent.nbytes)
        cuda.copy_in(address, sent)
        cuda.copy_out(received, address)
        cuda.synchronize()
        assert cuda.stream
    np.testing.assert_array_equal(received, sent)


def test_everything_is_freed_whatever_happens(device: FakeDevice) -> None:
    def use_and_fail() -> None:
        with open_device() as cuda:
            cuda.allocate(8)
            assert [device.get(name) for name in ("allocations", "contexts", "streams")] == [1, 1, 1]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        use_and_fail()
    assert [device.get(name) for name in ("allocations", "contexts", "streams")] == [0, 0, 0]


def test_a_failure_on_the_device_has_the_drivers_reason(device: FakeDevice) -> None:
    with open_device() as cuda:
        device.set("status", 700)
        with pytest.raises(BackendError, match=r"^CUDA: cuStreamSynchronize failed: an illegal memory .* \(700\)\.$"):
            cuda.synchronize()


def test_a_driver_without_a_device_is_an_error(device: FakeDevice) -> None:
    device.set("no_device", 1)
    with pytest.raises(BackendError, match=r"^CUDA: cuInit failed: no CUDA-capable device is detected \(100\)\.$"):
        open_device().__enter__()
    assert device.get("contexts") == 0


def test_a_machine_without_a_driver_says_where_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.backends.cuda._LIBRARY", "libnothing.so.1")
    with pytest.raises(BackendError, match=r"^no CUDA driver here \(libnothing.*\)\. Run this on the NVIDIA device"):
        open_device().__enter__()


def test_the_drivers_functions_take_as_many_arguments_as_we_pass() -> None:
    found = importlib.util.find_spec("cuda.bindings") if importlib.util.find_spec("cuda") else None
    if found is None or found.origin is None:
        pytest.skip("no cuda-bindings here, whose declarations these are compared with")
    text = Path(found.origin).with_name("cydriver.pxd").read_text(encoding="utf-8")
    declared = dict(re.findall(r"^cdef CUresult (cu\w+)\((.*)\) except", text, re.M))
    counts = {name: len(declared[name.removesuffix("_v2")].split(",")) for name in SIGNATURES}
    assert counts == {name: len(arguments) for name, arguments in SIGNATURES.items()}
