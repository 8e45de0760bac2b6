"""edgeoe inspect"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edgeoe.class_names import class_names
from edgeoe.cli.completion import complete_target
from edgeoe.cli.options import JsonOption, next_step, typed
from edgeoe.config import superseded
from edgeoe.errors import ConfigError, quoted
from edgeoe.files import path_in_report
from edgeoe.report.text_file import write_json
from edgeoe.settings import weights_from_text

__all__ = ["command"]


def command(
    *,
    context: typer.Context,
    teacher: Annotated[str, typer.Option(help="FILE.py:FACTORY, timm:NAME or torchvision:NAME.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of the teacher, as for compress.", metavar="FILE|random", show_default=False),
    ] = None,
    weights_key: Annotated[
        str | None, typer.Option(help="Key of the weights in the file, as for compress.", show_default=False)
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            help="Number of classes of a timm or torchvision teacher, or their names as for compress; default: 1000.",
            metavar="N|FILE|a,b,c",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Folder with a folder per class, instead of --classes.", show_default=False)
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Profile whose runtime measures latencies on this machine.",
            show_default=False,
            autocompletion=complete_target,
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Glob over layers whose channels may be pruned.", show_default=False)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Glob over layers whose channels must not be pruned.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of random weights.", min=0)] = 0,
    json: JsonOption = None,
) -> int:
    """Show what can be pruned in a teacher, what that saves, and what can't be pruned and why. Nothing is trained.

    Example: [bold]edgeoe inspect --teacher timm:resnet18 --weights random --target host-cpu[/]
    """
    from edgeoe.data.samples import find_samples
    from edgeoe.pipeline import inspect
    from edgeoe.report.inspection import show_inspection
    from edgeoe.report.terminal import bar
    from edgeoe.targets.load import load_target

    typed_options = typed(context)
    if ignored := superseded({name: context.params[name] for name in typed_options}, context.default_map or {}):
        weights = None if "weights" in ignored else weights
        weights_key = None if "weights_key" in ignored else weights_key
    if {"classes", "samples"} <= typed_options:
        raise ConfigError("--classes and --samples: give one of them.")
    if "samples" in typed_options:
        classes = None
    elif classes:
        samples = None
    record = inspect(
        teacher,
        weights=None if weights is None else weights_from_text(weights),
        weights_key=weights_key,
        classes=_count(classes or [])
        if samples is None
        else len(find_samples(samples, none_allowed=True, follow_links=True).classes),
        preprocess=context.obj.preprocess,
        include=include or (),
        exclude=exclude or (),
        target=load_target(target) if target is not None else None,
        seed=seed,
        progress=bar,
    )
    write_json(json, replace(record, teacher=path_in_report(record.teacher)))
    show_inspection(record)
    if any(not group.refused for group in record.groups):
        next_step(f"edgeoe compress --teacher {quoted(teacher)} --samples DIR --ood DIR --out RUN")
    elif record.blocks:
        next_step(f"edgeoe compress --method practise --teacher {quoted(teacher)} --samples DIR --ood DIR --out RUN")
    else:
        next_step("edgeoe inspect with another --teacher: no method can make this one smaller")
    return 0


def _count(classes: list[str]) -> int | None:
    """The number of classes in `--classes`, a number or names; None without the option. Raises ConfigError."""
    if len(classes) != 1 or not classes[0].lstrip("-").isdecimal():
        return len(class_names(classes)) if classes else None
    if int(classes[0]) < 1:
        raise ConfigError(f"--classes must be at least 1. Got {classes[0]}.")
    return int(classes[0])
