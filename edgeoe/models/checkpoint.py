"""A student as plain data: plan.json and weights.safetensors, without pickle.

plan.json names the teacher's source and, for every module that pruning changed, its new attributes
(`out_channels`, `num_features`, ...) and tensor shapes, or that it hands on what it is given: the difference
between teacher and student. So a
student is rebuilt by making the teacher's architecture, applying the difference, and loading the weights;
the pruning library is not needed for it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from edgeoe.errors import PruningError, RunError, TeacherError
from edgeoe.models.teacher import TeacherSource, load_numbers
from edgeoe.run import Run

__all__ = ["apply_plan", "load_student", "plan_between", "save_student"]

_PLAN, _WEIGHTS = "student/plan.json", "student/weights.safetensors"
_PLAIN = (int, float, bool, str)
Plan = dict[str, dict[str, Any]]


def plan_between(teacher: nn.Module, student: nn.Module) -> Plan:
    """What turns the architecture of `teacher` into that of `student`: {module: {attributes, tensors}}, or
    {module: {identity: true}} for a block that is gone.

    Both must have the same modules by name; attributes are compared where they are plain data.
    """
    plan: Plan = {}
    changed = dict(student.named_modules())
    for name, module in teacher.named_modules():
        other = changed.get(name)
        if other is None:  # inside a block that is gone
            continue
        if isinstance(other, nn.Identity) and not isinstance(module, nn.Identity):
            plan[name] = {"identity": True}
            continue
        attributes = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(other).items()
            if key != "training" and _is_plain(value) and value != getattr(module, key, None)
        }
        tensors = {
            key: list(tensor.shape)
            for key, tensor in [*other.named_parameters(recurse=False), *other.named_buffers(recurse=False)]
            if tensor.shape != getattr(module, key).shape and key not in other._non_persistent_buffers_set
        }
        if attributes or tensors:
            plan[name] = {"attributes": attributes, "tensors": tensors}
    return plan


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (
        isinstance(value, (tuple, list)) and all(isinstance(item, _PLAIN) for item in value)
    )


def apply_plan(model: nn.Module, plan: Mapping[str, Mapping[str, Any]]) -> None:
    """Give `model`, in place, the attributes and tensor shapes of `plan`; new tensors hold zeros."""
    for name, change in plan.items():
        if change.get("identity"):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
            continue
        module = model.get_submodule(name)
        for key, value in change["attributes"].items():
            old = getattr(module, key, None)
            setattr(module, key, tuple(value) if isinstance(old, tuple) else value)
        for key, shape in change["tensors"].items():
            old = getattr(module, key)
            tensor = torch.zeros(shape, dtype=old.dtype)
            if isinstance(old, nn.Parameter):
                setattr(module, key, nn.Parameter(tensor, requires_grad=old.requires_grad))
            else:
                module.register_buffer(key, tensor)


def save_student(run: Run, student: nn.Module, source: TeacherSource, *, facts: Mapping[str, Any], x: Tensor) -> None:
    """Write student/ into `run`; a user's own teacher file goes along, so that the run stands alone.

    facts: what else the plan records (classes, channels removed, ...). x: (N, C, H, W), on which the student
    is rebuilt and compared. Raises TeacherError if the rebuilt one does not answer the same, and PruningError if
    it answers different images alike.
    """
    _refuse_constant(student, x)
    architecture = source.build(len(facts["classes"]))  # and not the teacher: published weights may change it
    layers = plan_between(architecture, student)
    if source.file is not None:
        file = source.file
        run.write(f"student/{file.name}", lambda path: shutil.copyfile(file, path))
        source = replace(source, file=Path(file.name))
    run.write(_WEIGHTS, lambda path: save_model(student, str(path)))
    run.write_record(_PLAN, {"format": 1, "teacher": str(source), **facts, "layers": layers})
    with torch.no_grad():
        if not torch.allclose(load_student(run)(x), student(x), rtol=1e-3, atol=1e-5):
            raise TeacherError(
                f"--teacher {source}: made anew, it does not compute the same with the same weights. "
                "Is its forward random, or set up by more than its factory?"
            )


@torch.no_grad()
def _refuse_constant(student: nn.Module, x: Tensor) -> None:
    logits = student(x)
    if len(torch.unique(x.flatten(1), dim=0)) > 1 and len(torch.unique(logits, dim=0)) == 1:
        raise PruningError("the student answers every image alike: too little of it is left. Keep more of the teacher.")


def load_student(run: Run) -> nn.Module:
    """The student of `run`, on the CPU in eval mode.

    Raises RunError for missing or changed files, TeacherError if its architecture can't be made again.
    """
    plan = json.loads(run.file(_PLAN, made_by="compress").read_text(encoding="utf-8"))
    source = TeacherSource.parse(plan["teacher"])
    if source.file is not None:
        source = replace(source, file=run.file(f"student/{source.file.name}", made_by="compress"))
    student = source.build(len(plan["classes"]))
    apply_plan(student, plan["layers"])
    weights = run.file(_WEIGHTS, made_by="compress")
    try:
        load_numbers(student, load_file(weights))
    except (SafetensorError, RuntimeError) as reason:
        line = " ".join(str(reason).split())[:300]
        raise RunError(f"{weights}: does not fit {run.path / _PLAN}: {line}") from reason
    return student.eval()
