"""Adding a report format takes one file and one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import typer
from report.changes import FINE, comparison, validation
from typer.testing import CliRunner

from edgeoe import registry
from edgeoe.cli.reports import takes_reports
from edgeoe.errors import ConfigError
from edgeoe.records.comparison import Comparison
from edgeoe.records.measurement import Check, Estimate, Validation
from edgeoe.report.formats import Reports, report_format

FILE = '''
from edgeoe.report.text_file import write_text


class Csv:
    """Report format "csv"."""

    help = "Write a line for each figure here."
    takes_file = True

    def write_validation(self, validation, path):
        rows = [f"{check.name},{check.measured.value},{check.outcome}" for check in validation.verdict.checks]
        write_text("--csv", path, "\\n".join(rows) + "\\n")

    def write_comparisons(self, comparisons, path):
        write_text("--csv", path, "".join(f"{one.target},{one.outcome}\\n" for one in comparisons))
'''
CHECK = Check(name="p50_ms", limit=2, sense="at most", measured=Estimate(1.5, 1.4, 1.6), outcome="passed")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """A command that writes reports, after one file and one row were added."""
    (tmp_path / "csv_format.py").write_text(FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    rows = {**registry.REPORT_FORMATS.built_in, "csv": "csv_format:Csv"}
    monkeypatch.setattr(registry.REPORT_FORMATS, "built_in", rows)
    made = typer.Typer()

    @made.command("judge")
    @takes_reports
    def judge(*, reports: Reports) -> int:
        reports.write_validation(validation(CHECK))
        return 0

    @made.command("compare")
    @takes_reports
    def compare(*, reports: Reports) -> int:
        reports.write_comparisons([FINE, comparison(target="pi")])
        return 0

    return made


@pytest.mark.parametrize(
    ("command", "lines"), [("judge", "p50_ms,1.5,passed\n"), ("compare", "host-cpu,passed\npi,failed\n")]
)
def test_its_option_writes_what_it_says(app: typer.Typer, tmp_path: Path, command: str, lines: str) -> None:
    ran = CliRunner().invoke(app, [command, "--csv", str(tmp_path / "out.csv")])
    assert ran.exit_code == 0
    assert (tmp_path / "out.csv").read_text() == lines


def test_help_lists_its_option(app: typer.Typer) -> None:
    assert "Write a line for each figure here." in CliRunner().invoke(app, ["judge", "--help"]).output


@pytest.mark.parametrize("name", registry.REPORT_FORMATS)
def test_every_format_writes_both_kinds_or_says_why_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract of a report format."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    form = report_format(name)
    judged: Validation = validation(CHECK)
    compared: Sequence[Comparison] = [FINE]
    writers: list[Callable[[Path | None], object]] = [
        lambda path: form.write_validation(judged, path),
        lambda path: form.write_comparisons(compared, path),
    ]
    for number, write in enumerate(writers):
        path = tmp_path / f"{number}.out"
        write(path if form.takes_file else None)
        assert path.is_file() == form.takes_file
        if form.takes_file:
            assert path.stat().st_size > 0
            (tmp_path / "file").touch()
            with pytest.raises(ConfigError, match=f"^--{name} .*can't be written"):
                write(tmp_path / "file" / "below")
    assert form.help.endswith(".")
