"""Messages for the command line, as functions speak of it."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from edgeoe.arguments import OPTIONS, as_arguments
from edgeoe.errors import ConfigError, EdgeoeError, on_command_line


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("--ood is missing: give a folder, or pass --no-oe.", "ood is missing: give a folder, or pass oe=False."),
        ("--keep-macs: greater than 0. Got 2.", "keep_macs: greater than 0. Got 2."),
        ("Leave --keep-macs 0.5 out.", "Leave keep_macs=0.5 out."),
        ("Try --lr 0.05.", "Try lr=0.05."),
        ("Choose another --out, or pass --overwrite.", "Choose another out, or pass overwrite=True."),
        ("name it with --weights FILE.", "name it with weights=FILE."),
        ("--weights a/b.pt: no such file.", "weights='a/b.pt': no such file."),
        ("--teacher timm:resnet: timm has no such model.", "teacher='timm:resnet': timm has no such model."),
        ("--method none keeps the whole teacher.", "method='none' keeps the whole teacher."),
        ("pass --classes a,b,c.", "pass classes='a,b,c'."),
        ("a wider --include '*' helps", "a wider include='*' helps"),
        ("--include does not name it", "include does not name it"),
        ("set size under [preprocess] or [oe] alpha", "set size in preprocess or oe_settings alpha"),
        ("torchrun --nnodes 2 --nproc-per-node 1", "torchrun --nnodes 2 --nproc-per-node 1"),
        ("Make it: edgeoe export runs/a", "Make it: edgeoe.export('runs/a')"),
        ("Build: edgeoe build 'my run' --target pi", "Build: edgeoe.build('my run', 'pi')"),
        (
            "Measure there: edgeoe bundle RUN --target pi -o pi.tar.gz --test DIR, and take the result back: "
            "edgeoe collect RUN result.json",
            "Measure there: edgeoe.bundle(RUN, 'pi', out='pi.tar.gz', test=DIR), and take the result back: "
            "edgeoe.collect(RUN, 'result.json')",
        ),
        (
            "Make it: edgeoe export runs/a --precision fp16,int8. Then build.",
            "Make it: edgeoe.export('runs/a', precisions=['fp16', 'int8']). Then build.",
        ),
        (
            "fp32: edgeoe export runs/a --precision int8 --max-drop 0.01",
            "fp32: edgeoe.export('runs/a', precisions=['int8'], int8={'max_drop': 0.01})",
        ),
        ("Make one: edgeoe compress ... --out runs/a", "Make one: edgeoe.compress(..., out='runs/a')"),
        (
            "It is empty. Save one: edgeoe baseline save RUN --name main. Or pass --stored.",
            "It is empty. Save one: edgeoe baseline save RUN --name main. Or pass stored=True.",
        ),
        ("--weights-key a: no 'a'; leave --weights-key out.", "weights_key='a': no 'a'; leave weights_key out."),
        ("set size under [preprocess] in edgeoe.toml, e.g.", "set size in preprocess, e.g."),
        ("Pass --follow-links if they are yours", "Pass follow_links=True if they are yours"),
        ("or pass --one-student.", "or pass one_student=True."),
        ("--latency-ms and --speedup: give one of them.", "latency_ms and speedup: give one of them."),
        ("Try --latency-ms 0.4 or --speedup 4.", "Try latency_ms=0.4 or speedup=4."),
        (
            "to make one: edgeoe latency-table --target pi --channel-multiple 16 -o pi.tar.gz",
            "to make one: edgeoe.latency_table(target='pi', channel_multiple=16, out='pi.tar.gz')",
        ),
        ("add --out pi.tar.gz", "add out='pi.tar.gz'"),
        ("edgeoe doctor says what is missing", "edgeoe doctor says what is missing"),
    ],
)
def test_options_and_commands_read_as_arguments_and_calls(text: str, reads: str) -> None:
    assert as_arguments(text) == reads
    assert as_arguments(reads) == reads, "a message within a message is reworded once"


def test_an_error_speaks_of_options_to_whoever_typed_one() -> None:
    error = ConfigError("--ood is missing")
    assert isinstance(error, EdgeoeError)
    with on_command_line(False):
        assert str(error) == "ood is missing"
        with on_command_line():
            assert str(error) == "--ood is missing"
        assert str(error) == "ood is missing"
    assert error.args == ("--ood is missing",)


def test_every_option_that_a_message_can_name_is_known() -> None:
    from edgeoe.cli.app import app

    root: Any = typer.main.get_command(app)
    options = {
        name.removeprefix("--")
        for command in root.commands.values()
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }
    of_the_terminal = {"config", "github", "help", "json", "junit", "log-file", "markdown", "quiet", "verbose", "yes"}
    assert len(options) > 40
    assert options - of_the_terminal <= OPTIONS
