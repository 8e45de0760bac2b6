"""TensorRT's real Python bindings, importable without TensorRT: to hold code against every version's API.

The bindings on PyPI are real, only the libraries behind them are not there. So this downloads the bindings, and
compiles libraries that define what they need as functions returning 0. Nothing can be built or run with that.

    tools/tensorrt_api.py              # fetches 10.3, 10.13 and 11.4, and says how to import each
    tools/tensorrt_api.py describe     # in a process that can import tensorrt_bindings: its API as JSON
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

VERSIONS = {
    "10.3": ("tensorrt_cu12_bindings", "10.3.0"),
    "10.13": ("tensorrt_cu12_bindings", "10.13.3.9"),
    "11.4": ("tensorrt_cu13_bindings", "11.4.0.106"),
}
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeoe" / "tensorrt-bindings"


class UnavailableError(Exception):
    """These bindings can't be had here: no network, no compiler, no wheel for this Python."""


def make_importable(version: str, *, folder: Path = CACHE) -> Path:
    """A folder with `tensorrt_bindings` of `version` and, in `lib`, what it links. Raises UnavailableError."""
    package, release = VERSIONS[version]
    made = folder / f"{package}-{release}-{sys.implementation.cache_tag}-{platform.machine()}"
    if made.is_dir():
        return made
    missing = [tool for tool in ("gcc", "nm", "objdump") if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(f"no {', '.join(missing)} here (gcc and binutils make the stub libraries)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        partial = Path(temporary, "made")
        _download(package, release, partial)
        (library,) = partial.glob("tensorrt_bindings/tensorrt*.so")
        _compile_stubs(library, partial / "lib")
        try:
            partial.rename(made)
        except OSError:  # another process was faster
            if not made.is_dir():
                raise
    return made


def _download(package: str, release: str, folder: Path) -> None:
    wheels = folder.with_name("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary", ":all:", "--retries", "1", "--timeout", "20", "--dest", str(wheels),
               f"{package}=={release}"]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        errors = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")]
        told = f"{package} {release} can't be downloaded: {(errors or [ran.stderr])[0].strip()}"
        if "(from versions: 1" in told and sys.version_info < (3, 13):  # the index has others: it was taken away
            raise RuntimeError(told)
        raise UnavailableError(told)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def _compile_stubs(library: Path, folder: Path) -> None:
    """Libraries that `library` needs of TensorRT; each defines every one of the symbols that it lacks."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    ).stdout
    symbols = re.findall(r" U ((?:create|get|init)\w+)$", listed, re.M)  # glibc's have @VERSION after the name
    headers = subprocess.run(["objdump", "-p", library], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED\s+(libnv\S+)", headers)
    if not symbols or not needed:
        raise RuntimeError(f"{library}: no symbols or libraries of TensorRT found; has its layout changed?")
    zero = "mov $0, %eax" if platform.machine() == "x86_64" else "mov x0, #0"
    lines = [".text"]
    for symbol in symbols:
        lines += [f".globl {symbol}", f".type {symbol}, %function", f"{symbol}:", f"    {zero}", "    ret"]
    lines.append('.section .note.GNU-stack, "", %progbits')
    folder.mkdir()
    source = folder / "stubs.s"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in needed:
        command = ["gcc", "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True)


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that is to import from `make_importable`'s folder."""
    return {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": str(folder)}


@cache
def describe(version: str) -> dict[str, Any]:
    """The API of `version` as `_describe` gives it. Raises UnavailableError."""
    command = [sys.executable, __file__, "describe"]
    ran = subprocess.run(
        command, env=environment(make_importable(version)), capture_output=True, text=True, check=True, timeout=120
    )
    api: dict[str, Any] = json.loads(ran.stdout)
    return api


def _describe() -> dict[str, Any]:
    """version, module (its names), and classes: by name, each member's kind, type, and for methods the signatures."""
    import tensorrt_bindings as trt

    classes: dict[str, type] = {}
    waiting = [value for name, value in vars(trt).items() if inspect.isclass(value)]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.startswith("tensorrt") and kind.__qualname__ not in classes:
            classes[kind.__qualname__] = kind
            waiting += [value for value in vars(kind).values() if inspect.isclass(value)]
    return {
        "version": trt.__version__,
        "module": sorted(vars(trt)),
        "classes": {name: {one: _member(kind, one) for one in dir(kind)} for name, kind in sorted(classes.items())},
    }


def _member(kind: type, name: str) -> dict[str, Any]:
    value = inspect.getattr_static(kind, name)
    if isinstance(value, property):
        returned = re.search(r"-> (.+)$", (value.fget.__doc__ or "").strip().partition("\n")[0])
        return {"kind": "property", "writable": value.fset is not None, "type": _type(returned[1] if returned else "")}
    member = getattr(kind, name)
    if inspect.isclass(member):
        return {"kind": "class", "type": member.__qualname__}
    if callable(member) and not type(member).__module__.startswith("tensorrt"):
        signatures = re.findall(rf"^(?:\d+\. )?{name}\((self: .*)\) -> (.+)$", member.__doc__ or "", re.M)
        return {"kind": "method", "signatures": [_signature(*found) for found in signatures]}
    return {"kind": "value", "type": type(member).__qualname__}


def _signature(parameters: str, returns: str) -> dict[str, Any]:
    """Parameters after self as [name, whether it is required]."""
    parts, depth = [""], 0
    for character in parameters:
        depth += {"[": 1, "(": 1, "<": 1, "]": -1, ")": -1, ">": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    named = [[part.partition(":")[0].strip(), "=" not in part] for part in parts[1:]]
    return {"parameters": named, "type": _type(returns)}


def _type(text: str) -> str:
    """A class of ours by its bare name."""
    known = {"nvonnxparser::IParserError": "ParserError"}
    return known.get(text, text.removeprefix("tensorrt_bindings.tensorrt."))


def main() -> None:
    if sys.argv[1:] == ["describe"]:
        print(json.dumps(_describe()))
        return
    for version in VERSIONS:
        try:
            folder = make_importable(version)
        except UnavailableError as reason:
            sys.exit(f"TensorRT {version}: {reason}")
        print(f"{version:<6} PYTHONPATH={folder} LD_LIBRARY_PATH={folder}/lib python -c 'import tensorrt_bindings'")


if __name__ == "__main__":
    main()
