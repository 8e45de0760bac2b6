"""A device that is none: see fake_device.py."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from backends.fake_device import FakeDevice

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def stub_cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stub_cuda.c as a library."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here, which compiles the stand-in for the CUDA driver")
    path = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, HERE / "stub_cuda.c"], check=True)
    return path


@pytest.fixture
def device(stub_cuda: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """TensorRT 10.3.0 on a device of compute capability 8.7, both fake."""
    spec = importlib.util.spec_from_file_location("tensorrt", HERE / "fake_tensorrt.py")
    assert spec is not None
    assert spec.loader is not None
    trt = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    spec.loader.exec_module(trt)
    modules = tmp_path_factory.mktemp("modules")  # for the processes that measure
    shutil.copyfile(HERE / "fake_tensorrt.py", modules / "tensorrt.py")
    monkeypatch.syspath_prepend(modules)
    smi = ("Stub (nvgpu)", "540.4.0", "", "", "")
    monkeypatch.setattr("edgeoe.machine.environment.ask_nvidia_smi", lambda *_: smi)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stub_cuda.parent))
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("edgeoe.backends.cuda._LIBRARY", str(stub_cuda))
    made = FakeDevice(trt, ctypes.CDLL(str(stub_cuda)), cache / "edgeoe" / "timings")
    made.reset()
    return made
