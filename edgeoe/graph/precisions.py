"""The precisions in which edgeoe writes graphs; the table PRECISIONS names each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeoe.graph.precision import Draft, Precision, Source
from edgeoe.graph.recipes import RECIPES
from edgeoe.machine.environment import int8_saturates
from edgeoe.targets.backends import runs_on, traits_of
from edgeoe.targets.profile import DeviceFacts, Target

__all__ = ["FP16", "FP32", "INT8"]


def _fp16_writer(source: Source) -> Callable[[str], Draft]:
    from edgeoe.graph.fp16 import to_fp16

    return lambda variant: Draft(graph=to_fp16(source.graph))  # noqa: ARG005 - there is one


def _int8_writer(source: Source) -> Callable[[str], Draft]:
    from edgeoe.graph.int8 import int8_writer

    return int8_writer(source)


def _recipe_for(target: Target, here: bool) -> str:
    """The int8 recipe that `target` computes fast and exactly.

    A profile without [device] means the machine that runs the graph: with `here` this one, whose processor decides,
    else an unknown one, for which the plain recipe is chosen.
    """
    recipe = traits_of(target.backend).int8_recipe(target)
    exact = target.device.int8_dot
    if here and target.device == DeviceFacts():
        exact = not int8_saturates()
    return "int8-cpu-7bit" if recipe == "int8-cpu" and runs_on(target) == "cpu" and exact is False else recipe


def _saturation(target: Target, facts: Mapping[str, Any], bundled: bool) -> str:
    saturates = facts.get("int8_saturates") and runs_on(target) == "cpu"
    if not saturates or _recipe_for(target, here=not bundled) == "int8-cpu-7bit":
        return ""
    return (
        "int8 sums saturate here, which makes the network less accurate: this x86 processor has no VNNI, and weights "
        f"have 8 bits. Set int8_dot = false in [device] of the profile, and {'bundle' if bundled else 'build'} again."
    )


FP32 = Precision(variants=("fp32",), writer=None, on_npu=False)
FP16 = Precision(
    variants=("fp16",),
    writer=_fp16_writer,
    max_rel_error=0.02,
    refusal="some of its values exceed the range of fp16. Export fp32 or int8.",
    compute_capability=5.3,
    on_cpu=False,
)
INT8 = Precision(
    variants=RECIPES,
    writer=_int8_writer,
    variant_for=_recipe_for,
    min_agreement=0.9,  # less is a broken calibration
    retry="Try another --calibration, or keep the most sensitive layers fp32: "
    "edgeoe export {run} --precision int8 --max-drop 0.01",
    compute_capability=6.1,
    note=_saturation,
)
