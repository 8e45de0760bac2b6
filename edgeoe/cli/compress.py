"""edgeoe compress"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeoe.cli.options import JsonOption, next_step
from edgeoe.cli.settings import takes_settings
from edgeoe.errors import quoted
from edgeoe.report.text_file import write_json
from edgeoe.settings import CompressSettings

__all__ = ["command"]


@takes_settings
def command(
    *,
    context: typer.Context,  # noqa: ARG001 - takes_settings reads it
    settings: CompressSettings,
    out: Annotated[Path, typer.Option(help="Run directory to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")] = False,
    json: JsonOption = None,
) -> int:
    """Compress a teacher into a smaller student, with a few labelled images and any pile of unlabelled pictures.

    The student keeps a share of the teacher (--keep-macs), or meets a budget on --target: --latency-ms, --speedup, or
    \\[budget] of its profile.

    Example: [bold]edgeoe compress --teacher model.py:resnet56 --weights teacher.safetensors --samples few/
    --ood pictures/ --keep-macs 0.5 --out runs/a[/]
    """
    from edgeoe.pipeline import compress
    from edgeoe.report.json import compress_json
    from edgeoe.report.terminal import bar, say, show_budget, show_left_alone, show_speed
    from edgeoe.run import layout

    run = compress(settings, out=out, overwrite=overwrite, progress=bar)
    if run is None:  # another process of torchrun
        return 0
    record, facts = run.read(layout.COMPRESS), run.read(layout.FACTS)
    write_json(json, compress_json(record, facts))
    say(
        f"student in {out}: {100 * record.macs_kept:.1f} % of the MACs, {100 * record.params_kept:.1f} % of the "
        f"parameters; {record.steps} steps in {record.seconds:.0f} s"
        + ("; random weights" if facts.random_weights else "")
    )
    if record.teacher_agreement:
        say(str(record.teacher_agreement))
    show_budget(record)
    show_left_alone(run.read(layout.PLAN).left_alone)
    show_speed(record)
    next_step(f"edgeoe export {quoted(out)}")
    return 0
