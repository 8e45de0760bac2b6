"""What this machine can run, determined by probing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgeoe.errors import BackendError, ConfigError, EdgeoeError, first_line, pass_on_out_of_memory
from edgeoe.machine.environment import cpu_flags, cpu_model, environment, int8_saturates
from edgeoe.registry import BACKENDS
from edgeoe.targets.backends import traits_of
from edgeoe.targets.here import differences
from edgeoe.targets.load import find_targets, load_target
from edgeoe.versions import versions

__all__ = ["Finding", "examine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One capability.

    here: whether this machine has it.
    detail: what it is, or how to get it.
    """

    what: str
    here: bool
    detail: str


def examine() -> list[Finding]:
    """Probe this machine for every capability that edgeoe can use."""
    return [*(probe() for probe in (_python, _cpu, _torch, _cuda)), *_backends(), _targets()]


def _python() -> Finding:
    return Finding("edgeoe", True, ", ".join(f"{name} {version}" for name, version in versions().items()))


def _cpu() -> Finding:
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "asimddp", "i8mm", "bf16")
    fast = " ".join(flag for flag in known if flag in cpu_flags())
    int8 = "; no VNNI: int8 is exact with weights of 7 bits (int8-cpu-7bit)" if int8_saturates() else ""
    return Finding("CPU", True, f"{cpu_model()}, {environment()['cores']} cores, {fast or 'no wide SIMD found'}{int8}")


def _torch() -> Finding:
    installed = versions("torch", "torchvision", "timm", "lightning-fabric")
    detail = ", ".join(f"{name} {version}" for name, version in installed.items() if name not in ("python", "edgeoe"))
    return _probed("compression", lambda: _torch_detail(detail), install="pip install 'edgeoe[compress]'")


def _torch_detail(detail: str) -> str:
    from edgeoe.training.fabric import automatic_precision

    return f"{detail}; trains in {automatic_precision('cpu')} on the CPU"


def _cuda() -> Finding:
    try:
        import torch
    except ModuleNotFoundError:
        return Finding("CUDA", False, "unknown: torch is not installed")
    if not torch.cuda.is_available():
        return Finding("CUDA", False, "no CUDA device or driver: compression runs on the CPU, several times slower")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("CUDA", True, f"{', '.join(names)}, CUDA {torch.version.cuda}")


def _backends() -> Iterator[Finding]:
    for name in BACKENDS:
        try:
            traits = traits_of(name)
        except ConfigError as broken:
            yield Finding(f"{name} targets", False, str(broken))
            continue
        yield _probed(f"{traits.title} targets", traits.describe, install=traits.install)


def _targets() -> Finding:
    good, bad, here = [], [], []
    facts = environment()
    for name, path in find_targets().items():
        try:
            target = load_target(str(path))
            good.append(name)
            if not differences(target, facts):
                here.append(name)
        except EdgeoeError as reason:
            bad.append(str(reason))
    this_machine = f"this machine matches {', '.join(here) or 'none'}"
    return Finding("profiles", not bad, "; ".join([", ".join(good), this_machine, *bad]))


def _probed(what: str, detail: Callable[[], str], *, install: str) -> Finding:
    try:
        return Finding(what, True, detail())
    except ModuleNotFoundError as missing:
        return Finding(what, False, f"{missing.name} is not installed: {install}")
    except BackendError as reason:
        return Finding(what, False, str(reason))
    except Exception as reason:
        pass_on_out_of_memory(reason)
        return Finding(what, False, f"{type(reason).__name__}: {first_line(reason)}")
