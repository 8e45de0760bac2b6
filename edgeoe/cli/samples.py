"""edgeoe samples"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.options import JsonOption, next_step
from edgeoe.errors import ConfigError, quoted
from edgeoe.report.text_file import write_json
from edgeoe.settings import PreprocessSettings, weights_from_text

if TYPE_CHECKING:
    from edgeoe.data.samples import SampleFiles
    from edgeoe.records.compression import TeacherAgreement

__all__ = ["command"]


def command(
    *,
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder per class.", show_default=False)],
    list: Annotated[  # noqa: A002 - the option's name
        Path | None,
        typer.Option(help="Text file of paths that narrows the folder.", show_default=False),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            help="Classes in the order of the teacher's outputs: a file, one a line, or a,b,c; default: alphabetical.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Ask it how many labels it agrees with; as compress takes it.", show_default=False),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of the teacher, as compress takes them.", metavar="FILE", show_default=False)
    ] = None,
    weights_key: Annotated[
        str | None, typer.Option(help="Which weights in the file, as compress takes it.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for the labelled images shown to the teacher.", min=0)] = 0,
    json: JsonOption = None,
) -> int:
    """Look at labelled samples: images per class, imbalance, unreadable, unused and duplicate images.

    With --teacher: how many labels the teacher agrees with, which shows whether its classes are in this order and
    \\[preprocess] is right. Exit code 2 if an image is unreadable, or the teacher agrees with no more labels than by
    chance.

    Example: [bold]edgeoe samples few/ --teacher model.py:resnet56 --weights teacher.safetensors[/]
    """
    from edgeoe.class_names import class_names
    from edgeoe.data.sample_report import inspect_samples
    from edgeoe.data.samples import find_samples
    from edgeoe.report.terminal import bar, out, say, table

    found = find_samples(folder, list, classes=class_names(classes) if classes else ())
    report = inspect_samples(found, progress=bar)
    write_json(json, report)
    most = max(*report.counts, 1)
    rows = [
        (name, str(count), "█" * max(round(30 * count / most), 1 if count else 0))
        for name, count in zip(report.classes, report.counts, strict=True)
    ]
    made = table(f"{sum(report.counts)} images, {len(report.classes)} classes", ("class", "images", ""), rows)
    made.columns[2].justify = "left"
    out.print(made)
    say(f"imbalance ratio (largest class to smallest that has images): {report.imbalance_ratio:g}")
    for name in report.empty:
        say(("no images:", "yellow"), f" class {name}")
    for skipped in report.skipped:
        say(("not used:", "yellow"), f" {skipped}")
    for path in report.unreadable:
        say(("unreadable:", "red"), f" {path}")
    for group in report.duplicates:
        say(("same pixels:", "yellow"), f" {', '.join(group)}")
    if report.unreadable:
        next_step(f"remove or replace the unreadable images, then edgeoe samples {quoted(folder)}")
        return 2
    if teacher is not None:
        agreement = _ask(teacher, weights, weights_key, found, context.obj.preprocess, seed)
        write_json(json, dataclasses.replace(report, teacher_agreement=agreement))
    elif not classes:
        _tell_order(found)
    next_step(f"edgeoe compress --samples {quoted(folder)} ...")
    return 0


def _ask(
    teacher: str,
    weights: str | None,
    weights_key: str | None,
    files: SampleFiles,
    preprocess: PreprocessSettings,
    seed: int,
) -> TeacherAgreement | None:
    """Say with how many labels the teacher agrees, and in which classes with few. Raises EdgeoeError."""
    from edgeoe.report.terminal import bar, say
    from edgeoe.stages.agreement import teacher_agreement

    if weights == "random":
        raise ConfigError("--weights random: such a teacher has learned nothing that could agree with labels.")
    given = None if weights is None else weights_from_text(weights)
    agreement = teacher_agreement(
        teacher, given, files, weights_key=weights_key, preprocess=preprocess, seed=seed, progress=bar
    )
    if agreement is not None:
        say(str(agreement))
        by_class = zip(files.classes, agreement.right_per_class, agreement.of_per_class, strict=True)
        few = [f"{name} {right} of {of}" for name, right, of in by_class if right < of / 2]
        if few:
            say(("less than half in:", "yellow"), f" {', '.join(few)}")
    return agreement


def _tell_order(files: SampleFiles) -> None:
    """Say so where numbers in the classes' names are not in numeric order."""
    from edgeoe.class_names import natural_order
    from edgeoe.report.terminal import say

    natural = natural_order(files.classes)
    for name, other in zip(files.classes, natural, strict=True):
        if name != other and any(map(str.isdigit, name + other)):
            say(
                ("class order:", "yellow"),
                f" alphabetical, so that {name} comes before {other}; if the teacher's outputs are in another, pass "
                "--classes",
            )
            return
