"""What an unfinished compression has computed so far, in a folder beside its run, so that the same command goes on.

runs/.a.resume/              of the run runs/a; removed once that is there, or by the next command that changes the run
  index.json                 inputs of the compression, values that it has computed, and the hashes of its states
  <state>-0.safetensors      tensors of a state, and facts about it in the header; -1 in turn

A file is complete or absent. The index is written last and names the files that count; the others are swept.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from edgeoe.bounds import NotNegative
from edgeoe.codec import read_record, record_text
from edgeoe.errors import RunError, said
from edgeoe.files import file_sha256, write_atomic
from edgeoe.interruption import shielded
from edgeoe.run.placement import work_folder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SavedWork", "State", "saved_work_folder", "sweep_saved_work"]

Value = TypeVar("Value")
EVERY_S = 30.0  # between two writes, and before the first: what takes less is done again
_INDEX, _FORMAT = "index.json", 1
_log = logging.getLogger(__name__)


def saved_work_folder(run: Path) -> Path:
    """Where an unfinished compression into `run` keeps its work."""
    return run.with_name(f".{run.name}.resume")


@dataclass(frozen=True, slots=True)
class State:
    """A state of a computation, from which it goes on.

    key: what it is a state of; it fits no other computation.
    facts: plain data (text, numbers, lists, dicts).
    """

    key: str
    facts: dict[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _StateFile:
    key: str
    file: str
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file or self.file == "..":
            raise ValueError(f"file: expected a file name. Got {self.file!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """Content of index.json.

    inputs: what decides the student, by name; another compression has others.
    values: by key, each as JSON of its own, which holds any number.
    states: by name.
    seconds: what all of it took.
    student_sha256: of the finished student, which is about to be put in its place; empty before.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    states: dict[str, _StateFile] = field(default_factory=dict)
    seconds: NotNegative = 0.0
    student_sha256: str = ""


class SavedWork:
    """What an unfinished compression has computed: values by key, and one state for each name.

    It is written at most every half a minute.

    folder: where it is kept; None keeps nothing on disk.
    inputs: what decides the student, by name; called when they are first needed.
    began: when this process began, by `perf_counter`; None is now.
    """

    def __init__(
        self,
        folder: Path | None = None,
        inputs: Callable[[], Mapping[str, str]] = dict,
        *,
        began: float | None = None,
    ) -> None:
        self.folder = folder
        self.values: dict[str, Any] = {}
        self.states: dict[str, State] = {}
        self._inputs = inputs
        self._files: dict[str, _StateFile] = {}
        self._since = perf_counter()  # the last write
        self._began = self._since if began is None else began
        self._seconds_before = 0.0
        self._changed = False

    @classmethod
    def open(cls, folder: Path, inputs: Callable[[], Mapping[str, str]], *, began: float | None = None) -> SavedWork:
        """The work in `folder`, if it is of the same `inputs`; otherwise empty, with a warning that says why.

        inputs, began: as for the class.
        """
        if folder.is_symlink():
            _log.warning("%s is a link: nothing is kept there, and an interruption will lose the work.", folder)
            return cls(None, inputs, began=began)
        work = cls(folder, inputs, began=began)
        if not folder.is_dir():
            return work
        try:
            index = read_record(_Index, folder / _INDEX, format=_FORMAT)
            values = {key: json.loads(value) for key, value in index.values.items()}
        except (OSError, ValueError):
            reason = "what an interrupted compression left is incomplete, or of another version"
        else:
            reason = _difference(index.inputs, work.inputs)
            if not reason:
                work.values, work._seconds_before = values, index.seconds
                work._read_states(folder, index)
        if reason:
            _log.warning("%s", said(f"starts anew: {reason}."))
            shutil.rmtree(folder, ignore_errors=True)
        return work

    @cached_property
    def inputs(self) -> dict[str, str]:
        """What decides the student, by name."""
        return dict(self._inputs())

    @property
    def seconds(self) -> float:
        """What the work took in all processes that went on with it, without what they lost."""
        return self._seconds_before + perf_counter() - self._began

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return not self.values and not self.states

    @property
    def is_on_disk(self) -> bool:
        """Whether the same command would go on."""
        return self.folder is not None and (self.folder / _INDEX).is_file()

    def kept(self, key: str, compute: Callable[[], Value]) -> Value:
        """The value of `key`, computed only if it is not known.

        compute: returns plain data: text, numbers, lists, dicts. Tuples are lists when they are read back.
        """
        if key not in self.values:
            self.values[key] = compute()
            self._changed = True
            if self.is_due:
                self._write_index()
        value: Value = self.values[key]
        return value

    def take(self, name: str, key: str) -> State | None:
        """The state `name` of what `key` says; None if it is not known. It is given once."""
        state = self.states.get(name)
        return self.states.pop(name) if state is not None and state.key == key else None

    @property
    def is_due(self) -> bool:
        """Whether a state should be saved now."""
        return self.folder is not None and perf_counter() - self._since >= EVERY_S

    def save(self, name: str, state: State) -> None:
        """Write `state`, instead of an earlier one of that `name`. What can't be written is lost, with a warning."""
        if self.folder is None:
            return
        import torch
        from safetensors.torch import save_file

        header = {"facts": json.dumps(state.facts)}
        tensors = {
            key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, tensor in state.tensors.items()
        }
        before = self._files.get(name)
        names = [f"{name}-{turn}.safetensors" for turn in range(2)]
        path = self.folder / names[before is not None and before.file == names[0]]
        try:
            write_atomic(path, lambda file: save_file(tensors, file, metadata=header))
            self._files[name] = _StateFile(state.key, path.name, file_sha256(path))
        except OSError as reason:
            self._give_up(reason)
            return
        self._write_index()
        if before is not None and self.folder is not None:
            (self.folder / before.file).unlink(missing_ok=True)

    def flush(self) -> None:
        """Write values that are not yet written, unless the whole work took less than half a minute."""
        if self._changed and (self.is_due or self.is_on_disk):
            self._write_index()

    def finish(self, student_sha256: str) -> None:
        """Note on the disk, where anything is there, which student the work has made.

        If the process ends before `remove`, but after the run is in its place, another command sees by this that nobody
        needs the folder any more.
        """
        if self.is_on_disk:
            self._write_index(student_sha256)

    def remove(self) -> None:
        """Remove the folder."""
        if self.folder is not None and self.folder.is_dir():
            with shielded():
                shutil.rmtree(self.folder, ignore_errors=True)

    def _read_states(self, folder: Path, index: _Index) -> None:
        from safetensors import safe_open

        for name, saved in index.states.items():
            path = folder / saved.file
            if not path.is_file() or file_sha256(path) != saved.sha256:
                _log.warning("%s: damaged, and not used.", path)
                continue
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
                self.states[name] = State(saved.key, json.loads(file.metadata()["facts"]), tensors)
            self._files[name] = saved
        used = {_INDEX, *(saved.file for saved in self._files.values())}
        for path in folder.iterdir():
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _write_index(self, student_sha256: str = "") -> None:
        if self.folder is None:
            return
        index = _Index(
            inputs=self.inputs,
            values={key: json.dumps(value) for key, value in self.values.items()},
            states=self._files,
            seconds=self.seconds,
            student_sha256=student_sha256,
        )
        text = record_text(index, format=_FORMAT)
        try:
            write_atomic(self.folder / _INDEX, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as reason:
            self._give_up(reason)
        self._since, self._changed = perf_counter(), False

    def _give_up(self, reason: OSError) -> None:
        _log.warning("%s: can't be written (%s): an interruption will lose the work.", self.folder, reason.strerror)
        with suppress(OSError):
            self.remove()
        self.folder = None


def sweep_saved_work(run: Path, student_sha256: str) -> None:
    """Remove the work beside `run` that made the student which the run has, unless a compression goes on there.

    Its process ended between putting the run in its place and removing the work.
    """
    folder = saved_work_folder(run)
    with suppress(OSError, ValueError, RunError):
        if folder.is_symlink() or not (folder / _INDEX).is_file():
            return
        made = read_record(_Index, folder / _INDEX, format=_FORMAT).student_sha256
        if made and made == student_sha256:
            with work_folder(run, timeout_s=0.0):
                shutil.rmtree(folder, ignore_errors=True)


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How the inputs of an interrupted compression differ from those of this one; empty if they don't."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return ""
    return f"the interrupted compression differed in: {', '.join(names[:3])}{', ...' if names[3:] else ''}"
