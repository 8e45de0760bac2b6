"""Check, in a fresh process and before training, that an architecture can be rebuilt from a run's files alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from edgeoe.codec import from_json
from edgeoe.errors import TeacherError, first_line, on_command_line, pass_on_out_of_memory
from edgeoe.files import write_atomic
from edgeoe.models.modes import eval_afresh
from edgeoe.models.teacher import TeacherSource
from edgeoe.models.weights import load_state
from edgeoe.records.student import CodeFiles

__all__ = ["Rebuilt", "check_rebuilt", "rebuild", "same_outputs"]

_PACKAGE = Path(__file__).resolve().parents[2]  # edgeoe lies here, installed or not
_TOLERANCE = 1e-3  # of max |difference| / max |logit|
# Environment variables that a process needs; a teacher that reads any other could not be rebuilt elsewhere.
_KEPT = re.compile(
    r"(PATH|HOME|USER|LOGNAME|SHELL|LANG|TZ|TMP|TEMP|TMPDIR|SYSTEMROOT|WINDIR|USERPROFILE|APPDATA|LOCALAPPDATA|VIRTUAL_ENV|"
    r"(LC|LD|DYLD|PYTHON|CONDA|CUDA|NVIDIA|OMP|MKL|KMP|OPENBLAS|TORCH|PYTORCH|HF|XDG|SSL|HTTP|HTTPS|NO)_.*|PYTHON.*|"
    r"(ALL|FTP)_PROXY|(http|https|ftp|all|no)_proxy|(REQUESTS|CURL)_CA_BUNDLE)\Z"
)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The answer of the fresh process.

    shapes: of every tensor of the state dict.
    logits: (N, K); None if it failed.
    failed: what failed, in one line; "" if nothing did.
    missing: a file that it needed and the run lacks, relative to the run's code; "" if none.
    """

    shapes: Mapping[str, tuple[int, ...]]
    logits: Tensor | None = None
    failed: str = ""
    missing: str = ""


def rebuild(source: TeacherSource, teacher: nn.Module, x: Tensor, *, classes: int) -> Rebuilt:
    """Rebuild a teacher in a fresh process, which has an empty working folder and only the system's environment.

    source: a copy of the user's files.
    teacher: whose weights the rebuilt network gets.
    x: images (N, C, H, W) that it is run on.
    classes: number of classes.
    """
    assert source.code is not None  # noqa: S101 - what a copy means
    assert source.code.root is not None  # noqa: S101
    assert source.code.only is not None  # noqa: S101
    with tempfile.TemporaryDirectory(prefix="edgeoe-rebuild-") as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        _save_weights(teacher, folder / "weights.safetensors", source)
        save_file({"x": x.contiguous()}, folder / "x.safetensors")
        asked = {"name": source.name, "classes": classes, "only": asdict(source.code.only)}
        asked["root"] = str(source.code.root.resolve())
        (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        said = _in_fresh_process(folder)
        if not (folder / "answer.json").is_file():
            return Rebuilt({}, failed=said)
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        logits = load_file(folder / "logits.safetensors")["logits"] if not answer["failed"] else None
    shapes = {key: tuple(shape) for key, shape in answer["shapes"].items()}
    return Rebuilt(shapes, logits, answer["failed"], answer["missing"])


def _save_weights(teacher: nn.Module, path: Path, source: TeacherSource) -> None:
    try:
        write_atomic(path, lambda temporary: save_model(teacher, str(temporary)))
    except OSError:  # a full disk says nothing about the teacher
        raise
    except Exception as reason:  # safetensors raises nearly anything over what is no dense tensor of its own
        pass_on_out_of_memory(reason)
        what = f"{type(reason).__name__}: {first_line(reason)}"
        raise TeacherError(f"--teacher {source}: its weights can't be written as safetensors: {what}") from reason


def _in_fresh_process(folder: Path) -> str:
    """Run `main(folder)` in a process of its own. Returns the last line of its stderr."""
    ended = subprocess.run(  # noqa: S603 - this Python, and a module of edgeoe
        [sys.executable, "-m", "edgeoe.models.rebuild", str(folder)],
        cwd=folder / "empty",
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the process ended with code {ended.returncode}."


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if _KEPT.match(name)}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (str(_PACKAGE), kept.get("PYTHONPATH"))))}


def check_rebuilt(rebuilt: Rebuilt, teacher: nn.Module, logits: Tensor, *, source: TeacherSource) -> None:
    """Compare a rebuilt network with `teacher` and its `logits`. Raises TeacherError with what differs."""
    if rebuilt.failed:
        raise TeacherError(
            f"--teacher {source}: can't be rebuilt in a fresh process from its own files, which is all that a run "
            f"takes along: {rebuilt.failed}"
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in teacher.state_dict().items()}
    differing = [key for key in {**shapes, **rebuilt.shapes} if shapes.get(key) != rebuilt.shapes.get(key)]
    if differing:
        key = differing[0]
        what = f"{key} is {rebuilt.shapes.get(key, 'missing')} instead of {shapes.get(key, 'missing')}"
    elif rebuilt.logits is None or not same_outputs(rebuilt.logits, logits):
        what = "with the same weights its outputs differ"
    else:
        return
    raise TeacherError(
        f"--teacher {source}: rebuilt in a fresh process, it is another network: {what}. It must depend on its own "
        "files alone: no environment variables, no arguments of a command line, no random numbers."
    )


def same_outputs(one: Tensor, other: Tensor) -> bool:
    """Whether both logits (N, K) are equal up to rounding."""
    return one.shape == other.shape and bool((one - other).abs().max() <= _TOLERANCE * other.abs().max())


# In the fresh process


def _answer(folder: Path) -> Rebuilt:
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    x, state = load_file(folder / "x.safetensors")["x"], load_file(folder / "weights.safetensors")
    root = Path(asked["root"])
    source = TeacherSource.copied(root, from_json(CodeFiles, asked["only"]), asked["name"])
    try:
        model = source.build(asked["classes"], channels=x.shape[1])
        shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        if any(shapes.get(key) != tensor.shape for key, tensor in state.items()):
            return Rebuilt(shapes, torch.empty(0))
        load_state(model, state)
        with torch.no_grad():
            return Rebuilt(shapes, eval_afresh(model)(x))
    except Exception as reason:
        pass_on_out_of_memory(reason)
        line = str(reason).removeprefix(f"--teacher {source}: ").replace(f"{root}{os.sep}", "").splitlines()[0]
        return Rebuilt({}, failed=line + _hint(reason), missing=_missing(reason, root))


def _missing(reason: Exception, root: Path) -> str:
    """The file below `root` that `reason` names as missing; "" if none."""
    named = re.findall(re.escape(f"{root}{os.sep}") + r"([^'\"\n:]+)", str(reason.__cause__ or reason))
    return next((name for name in named if not (root / name).exists()), "")


def _hint(reason: Exception) -> str:
    cause = reason.__cause__ or reason
    if isinstance(cause, FileNotFoundError) and cause.filename and not Path(str(cause.filename)).is_absolute():
        return ". A path relative to the working folder fails elsewhere: begin with Path(__file__).parent."
    return ""


def main(folder: Path) -> None:
    """Rebuild what `rebuild` has written into `folder`, and write the answer there."""
    with on_command_line():  # the parent rewords
        rebuilt = _answer(folder)
    if rebuilt.logits is not None:
        save_file({"logits": rebuilt.logits.contiguous()}, folder / "logits.safetensors")
    answer = {"shapes": rebuilt.shapes, "failed": rebuilt.failed, "missing": rebuilt.missing}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
