"""A student as plain data: plan.json and weights.safetensors, without pickle.

plan.json names the teacher's source and, for every module that pruning changed, its new attributes
(`out_channels`, `num_features`, ...) and tensor shapes, or that it hands on what it is given: the difference
between teacher and student. So a
student is rebuilt by making the teacher's architecture, applying the difference, and loading the weights.
A teacher from a user's own file has its code under student/code, as far as it was imported or read. A teacher that was
in memory has no source: teacher and student are programs, captured by torch.export (`program.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from edgeoe.errors import PruningError, RunError, TeacherError, pass_on_out_of_memory
from edgeoe.files import file_sha256
from edgeoe.models.modes import eval_afresh
from edgeoe.models.program import ProgramModule, capture
from edgeoe.models.rebuild import check_rebuilt, rebuild, same_outputs
from edgeoe.models.teacher import IN_MEMORY, TeacherSource
from edgeoe.models.weights import load_state
from edgeoe.pruning.prune import Pruned
from edgeoe.pruning.removal import Dropped, set_tensor
from edgeoe.records.program import Program
from edgeoe.records.student import LayerChange, StudentPlan
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.layout import File, RecordFile
from edgeoe.run.trust import copied_source, require_vouched, vouch_for

__all__ = [
    "Architecture",
    "apply_plan",
    "load_kept_teacher",
    "load_student",
    "plan_between",
    "read_architecture",
    "save_code",
    "save_student",
]

_PLAIN = (int, float, bool, str)


def plan_between(teacher: nn.Module, student: nn.Module) -> dict[str, LayerChange]:
    """What turns the architecture of `teacher` into that of `student`, by module.

    Both must have the same modules by name; attributes are compared where they are plain data.
    """
    plan: dict[str, LayerChange] = {}
    changed = dict(student.named_modules())
    for name, module in teacher.named_modules():
        other = changed.get(name)
        if other is None:  # inside a dropped block
            continue
        if isinstance(other, nn.Identity) and not isinstance(module, nn.Identity):
            plan[name] = LayerChange(identity=True)
            continue
        attributes = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(other).items()
            if key != "training" and _is_plain(value) and value != getattr(module, key, None)
        }
        tensors = {
            key: tuple(tensor.shape)
            for key, tensor in [*other.named_parameters(recurse=False), *other.named_buffers(recurse=False)]
            if tensor.shape != getattr(module, key).shape and key not in other._non_persistent_buffers_set
        }
        if attributes or tensors:
            plan[name] = LayerChange(attributes=attributes, tensors=tensors)
    return plan


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (
        isinstance(value, (tuple, list)) and all(isinstance(item, _PLAIN) for item in value)
    )


def apply_plan(model: nn.Module, plan: Mapping[str, LayerChange]) -> None:
    """Give `model`, in place, the attributes and tensor shapes of `plan`; new tensors hold zeros.

    Modules that share a tensor share the new one.
    """
    renewed: dict[int, tuple[Tensor, Tensor]] = {}  # id of an old tensor -> it, which keeps the id its own, and the new
    for name, change in plan.items():
        if change.identity:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Dropped())
            continue
        module = model.get_submodule(name)
        for key, value in change.attributes.items():
            old = getattr(module, key, None)
            setattr(module, key, tuple(value) if isinstance(old, tuple) else value)
        for key, shape in change.tensors.items():
            old = getattr(module, key)
            if id(old) not in renewed:
                new = torch.zeros(shape, dtype=old.dtype)
                is_parameter = isinstance(old, nn.Parameter)
                renewed[id(old)] = old, nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new
            set_tensor(module, key, renewed[id(old)][1])


@dataclass(frozen=True, slots=True)
class Architecture:
    """The teacher's architecture as a run has it: its source, its outputs, and the channels of its images."""

    source: TeacherSource
    classes: int
    channels: int


@torch.no_grad()
def save_code(
    run: Run, source: TeacherSource, teacher: nn.Module, *, shape: tuple[int, int, int], classes: int
) -> TeacherSource:
    """Copy the user's files that `teacher` was built from into `run`, and return the copy as a source.

    A fresh process rebuilds it from the copy, and must find the outputs that `teacher` has for images of `shape`
    (C, H, W). A source with a published name has no files, and is returned as it is; a network in
    memory is written as a program.
    Raises TeacherError, with what is missing or differs.
    """
    if source.module is not None:
        _save_program(run, layout.TEACHER_PROGRAM, layout.TEACHER_WEIGHTS, teacher, shape=shape, source=source)
    if source.code is None:
        return source
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with source.code.running():
        logits = teacher(x)
    while True:
        copy = _copied(run, source)
        if (digest := _digest(copy, teacher, shape, classes)) in _rebuilt:
            return copy
        rebuilt = rebuild(copy, teacher, x, classes=classes)
        if not rebuilt.missing or not source.code.note(str(source.code.root_and_files()[0] / rebuilt.missing)):
            break  # else it reads a file that Python does not open itself: once more, with that one
    check_rebuilt(rebuilt, teacher, logits, source=source)
    _rebuilt.add(digest)
    return copy


_rebuilt: set[str] = set()  # digests of what a fresh process has rebuilt since this process started


def _digest(copy: TeacherSource, teacher: nn.Module, *call: object) -> str:
    """A hash of all that decides whether `copy` can be rebuilt: its files, the call, the tensors of `teacher`."""
    assert copy.code is not None  # noqa: S101 - what a copy means
    root, only = copy.code.root, copy.code.only
    assert root is not None  # noqa: S101
    assert only is not None  # noqa: S101
    files = [(name, file_sha256(root / name)) for name in only.files]
    tensors = [(key, tuple(tensor.shape)) for key, tensor in teacher.state_dict().items()]
    return sha256(repr((copy.name, call, only, files, tensors)).encode()).hexdigest()


def _copied(run: Run, source: TeacherSource) -> TeacherSource:
    """The copy of a user's files in `run`; `source` itself if it has no files, or is a copy.

    This machine vouches for the copy, since it has just run the same files.
    """
    if source.code is None or source.code.only is not None:
        return source
    root, only = source.code.root_and_files()
    for name in only.files:
        run.write(layout.code_file(name), partial(shutil.copyfile, root / name))
    vouch_for(run, copied_source(run, only, factory=source.name))
    return TeacherSource.copied(run.path / layout.CODE, only, source.name)


def save_student(run: Run, pruned: Pruned, source: TeacherSource, *, outputs: int, x: Tensor) -> None:
    """Write student/ into `run`; a user's own files go along, so that the run stands alone.

    pruned: its model is the finished student.
    outputs: number of classes.
    x: (N, C, H, W), on which the student is rebuilt and compared.
    Raises TeacherError if the rebuilt one does not answer the same, and PruningError if it answers different images
    alike, or with what is no number.
    """
    student = pruned.model
    with torch.no_grad():
        logits = student(x)
    _check_logits(logits, x)
    channels = x.shape[1]
    layers: dict[str, LayerChange] = {}
    if source.module is not None:
        shape = (channels, x.shape[2], x.shape[3])
        _save_program(run, layout.STUDENT_PROGRAM, layout.WEIGHTS, student, shape=shape, source=source)
    else:
        architecture = source.build(outputs, channels=channels)  # not the teacher: published weights may change it
        layers = plan_between(architecture, student)
        run.write(layout.WEIGHTS, lambda path: save_model(student, str(path)))
    source = _copied(run, source)
    code = source.code.only if source.code else None
    plan = StudentPlan(
        teacher=f"{code.file}:{source.name}" if code else str(source),
        code=code,
        outputs=outputs,
        channels=channels,
        removed={name: tuple(channels) for name, channels in pruned.removed.items()},
        dropped=tuple(pruned.dropped),
        left_alone={group.name: group.refused for group in pruned.groups if group.refused},
        layers=layers,
    )
    run.save(layout.PLAN, plan)
    with torch.no_grad():
        rebuilt = load_student(run)(x)
    if not same_outputs(rebuilt, logits):
        difference, largest = (rebuilt - logits).abs().max().item(), logits.abs().max().item()
        raise TeacherError(
            f"--teacher {plan.teacher}: the pruned network, rebuilt with its weights, does not compute the same: "
            f"outputs differ by {difference:.3g}, the largest is {largest:.3g}. Is its forward random, or set up by "
            "more than its factory?"
        )


@torch.no_grad()
def _save_program(
    run: Run,
    file: RecordFile[Program],
    weights: File,
    model: nn.Module,
    *,
    shape: tuple[int, int, int],
    source: TeacherSource,
) -> None:
    """Write `model`, which takes images of `shape` (C, H, W), as a program. Raises TeacherError where that fails."""
    program, tensors = capture(model, shape, name=str(source))
    run.save(file, program)
    run.write(weights, lambda path: save_file(tensors, path))
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    rebuilt = _load_program(run, file, weights)
    if not all(same_outputs(rebuilt(rows), model(rows)) for rows in (x, x[:1])):
        raise TeacherError(
            f"--teacher {source}: as torch.export captures it, it computes something else. Is its forward random, or "
            "does it depend on the number of images?"
        )


def _load_program(run: Run, file: RecordFile[Program], weights: File) -> nn.Module:
    """The network that `_save_program` wrote, on the CPU in eval mode. Raises RunError if it is damaged."""
    program, path = run.read(file), run.file(weights)
    try:
        return ProgramModule(program, load_file(path)).eval()
    except (SafetensorError, ValueError) as reason:
        raise RunError(f"{run.path / file.name}: not a program of edgeoe: {reason}.") from reason


def load_kept_teacher(run: Run) -> nn.Module | None:
    """The teacher of `run` where it was in memory, on the CPU in eval mode; None where it came from a source.

    Raises RunError for missing or changed files.
    """
    if not run.read(layout.PLAN).teacher.startswith(IN_MEMORY):
        return None
    return _load_program(run, layout.TEACHER_PROGRAM, layout.TEACHER_WEIGHTS)


def _check_logits(logits: Tensor, x: Tensor) -> None:
    """Raise PruningError if the (N, K) `logits` of the (N, C, H, W) images `x` can be of no use."""
    if not logits.isfinite().all():
        raise PruningError(
            "the student's outputs are not finite: its weights have diverged. Try a smaller --lr, or keep more of the "
            "teacher."
        )
    if len(torch.unique(x.flatten(1), dim=0)) > 1 and len(torch.unique(logits, dim=0)) == 1:
        raise PruningError("the student answers every image alike: too little of it is left. Keep more of the teacher.")


def read_architecture(run: Run) -> Architecture:
    """The architecture of the teacher of `run`, from the run's own files.

    Raises RunError for missing or changed files, for a plan of another format, and for source that this machine does
    not vouch for.
    """
    return _architecture(run, run.read(layout.PLAN))


def _architecture(run: Run, plan: StudentPlan) -> Architecture:
    if plan.code is None:
        source = TeacherSource.parse(plan.teacher)
    else:
        require_vouched(run)
        source = TeacherSource.copied(run.path / layout.CODE, plan.code, plan.teacher.rpartition(":")[2])
    return Architecture(source, plan.outputs, plan.channels)


def load_student(run: Run) -> nn.Module:
    """The student of `run`, on the CPU in eval mode.

    Raises RunError for missing or changed files, and for source that this machine does not vouch for; TeacherError if
    its architecture can't be rebuilt.
    """
    plan = run.read(layout.PLAN)
    if plan.teacher.startswith(IN_MEMORY):
        return _load_program(run, layout.STUDENT_PROGRAM, layout.WEIGHTS)
    architecture = _architecture(run, plan)
    student = architecture.source.build(architecture.classes, channels=architecture.channels)
    apply_plan(student, plan.layers)
    weights = run.file(layout.WEIGHTS)
    try:
        load_state(student, load_file(weights))
    except (SafetensorError, RuntimeError) as reason:
        pass_on_out_of_memory(reason)
        line = " ".join(str(reason).split())[:300]
        raise RunError(f"{weights}: does not fit {run.path / layout.PLAN.name}: {line}") from reason
    return eval_afresh(student)
