"""The terminal: what a user names is text, however it is written."""

from dataclasses import replace

import pytest
from made_up import speed

from edgeoe.measure.judge import judge
from edgeoe.measure.summary import speed_from_samples
from edgeoe.records.measurement import Accuracy, Estimate, Measurement, Validation
from edgeoe.report.terminal import bar, err, out, say, show_left_alone, show_validation, table
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Budget

ODD = ["[red]", "[/]", ":car:", "runs/[a]", "\\[b]"]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    for console in (out, err):
        monkeypatch.setattr(console, "width", 200)


@pytest.mark.parametrize("name", ODD)
def test_a_line_and_a_table_show_text_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(("error:", "red"), f" {name}", to=err)
    say((name, "bold"), f" and {name}")
    out.print(table(f"of {name}", ("", name), [(name, "1")]))
    show_left_alone({name: f"because of {name}"})
    shown = capsys.readouterr()
    assert shown.err == f"error: {name}\n"
    assert shown.out.startswith(f"{name} and {name}\n")
    assert shown.out.count(name) == 7


@pytest.mark.parametrize("name", ODD)
def test_a_bar_shows_its_title_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(f"Doing {name}", 1) as advance:
        advance()
    assert f"Doing {name}" in capsys.readouterr().err


def test_a_bar_that_ends_early_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("Comparing", 40) as advance:
        for _ in range(10):
            advance()
    assert "10/10" in capsys.readouterr().err


def test_a_bar_that_is_cut_short_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    shown = bar("Comparing", 40)
    shown.__enter__()()
    shown.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert " 1/40" in capsys.readouterr().err


@pytest.mark.parametrize("name", ODD)
def test_classes_and_targets_keep_their_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    share = Estimate(0.5, 0.4, 0.6)
    accuracy = Accuracy(
        top1=share, recall_per_class=(share, None), mean_recall=share, rare_recall=share, worst_recall=share,
        rare_classes=(0,), images_per_class=(30, 0),
    )  # fmt: skip
    samples = speed()
    measurement = Measurement(
        artifact_sha256="0", size_bytes=1, golden_agreement=1.0, accuracy=accuracy, drop=None,
        speed=speed_from_samples(samples, load_target("host-cpu").measure), environment={}, settings={},
        notes=(f"a note on {name}",),
    )  # fmt: skip
    of_target = name.replace("/", "-")  # as its folder can be called
    target = replace(load_target("host-cpu"), name=of_target)
    verdict = judge(measurement, Budget())
    show_validation(Validation(target=target, classes=(name, "other"), measurement=measurement, verdict=verdict))
    shown = capsys.readouterr().out
    assert f"rare recall ({name})" in shown
    assert f"note: a note on {name}\n" in shown
    assert f"{of_target}, 30 test images" in shown
    assert "50.0 %  [40.0, 60.0]" in shown
    assert shown.endswith(f"{of_target}: passed\n")
