"""edgeoe samples"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.options import FollowLinksOption, JsonOption, next_step
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
    folder: Annotated[Path, typer.Argument(help="Folder with a folder per class.", show_default=False)],
    list: Annotated[  # noqa: A002 - the option's name
        Path | None,
        typer.Option(help="Text file of paths; only these files of the folder are used.", show_default=False),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            help="Classes in order of the teacher's outputs: a file, one per line, or a,b,c; default: alphabetical.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Teacher whose agreement with the labels is counted, as for compress.", show_default=False),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of the teacher, as for compress.", metavar="FILE", show_default=False)
    ] = None,
    weights_key: Annotated[
        str | None, typer.Option(help="Key of the weights in the file, as for compress.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for the labelled images shown to the teacher.", min=0)] = 0,
    follow_links: FollowLinksOption = False,
    json: JsonOption = None,
) -> int:
    """Inspect labelled samples: images per class, imbalance, unreadable, unused and duplicate images.

    With --teacher: the number of labels that the teacher agrees with, which shows whether its classes are in this
    order and \\[preprocess] is right. Exit code 2 if an image is unreadable, or the agreement is no better than chance.

    Example: [bold]edgeoe samples few/ --teacher model.py:resnet56 --weights teacher.safetensors[/]
    """
    from edgeoe.class_names import class_names
    from edgeoe.data.sample_report import inspect_samples
    from edgeoe.data.samples import find_samples
    from edgeoe.report.terminal import bar, out, say, table

    files = find_samples(folder, list, classes=class_names(classes) if classes else (), follow_links=follow_links)
    report = inspect_samples(files, progress=bar)
    write_json(json, report)
    largest = max(*report.counts, 1)
    rows = [
        (name, str(count), "█" * max(round(30 * count / largest), 1 if count else 0))
        for name, count in zip(report.classes, report.counts, strict=True)
    ]
    view = table(f"{sum(report.counts)} images, {len(report.classes)} classes", ("class", "images", ""), rows)
    view.columns[2].justify = "left"
    out.print(view)
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
        agreement = _report_agreement(teacher, weights, weights_key, files, context.obj.preprocess, seed)
        write_json(json, dataclasses.replace(report, teacher_agreement=agreement))
    elif not classes:
        _report_order(files)
    next_step(f"edgeoe compress --samples {quoted(folder)} ...")
    return 0


def _report_agreement(
    teacher: str,
    weights: str | None,
    weights_key: str | None,
    files: SampleFiles,
    preprocess: PreprocessSettings,
    seed: int,
) -> TeacherAgreement | None:
    """Print how many labels the teacher agrees with, and the classes where these are few. Raises EdgeoeError."""
    from edgeoe.report.terminal import bar, say
    from edgeoe.stages.agreement import teacher_agreement

    if weights == "random":
        raise ConfigError("--weights random: such a teacher has learned nothing that could agree with labels.")
    weights_source = None if weights is None else weights_from_text(weights)
    agreement = teacher_agreement(
        teacher, weights_source, files, weights_key=weights_key, preprocess=preprocess, seed=seed, progress=bar
    )
    if agreement is not None:
        say(str(agreement))
        by_class = zip(files.classes, agreement.right_per_class, agreement.of_per_class, strict=True)
        few = [f"{name} {right} of {of}" for name, right, of in by_class if right < of / 2]
        if few:
            say(("less than half in:", "yellow"), f" {', '.join(few)}")
    return agreement


def _report_order(files: SampleFiles) -> None:
    """Print a note if numbers in the classes' names are not in numeric order."""
    from edgeoe.class_names import natural_order
    from edgeoe.report.terminal import say

    natural = natural_order(files.classes)
    for name, natural_name in zip(files.classes, natural, strict=True):
        if name != natural_name and any(map(str.isdigit, name + natural_name)):
            say(
                ("class order:", "yellow"),
                f" alphabetical, so that {name} comes before {natural_name}; if the teacher's outputs are in "
                "another order, pass --classes",
            )
            return
