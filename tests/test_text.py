"""Text from elsewhere is shown, and does nothing: on a terminal, in a CI log, in Markdown, on a page."""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.changes import comparison, validation
from rich.progress import Progress

from edgeoe.cli.failures import report_failure
from edgeoe.errors import DataError
from edgeoe.report.comparison import show_comparison
from edgeoe.report.github import GitHub
from edgeoe.report.html import validation_page
from edgeoe.report.junit import junit_of_comparisons
from edgeoe.report.markdown import markdown_of_comparisons
from edgeoe.report.terminal import _Console, bar, say, table
from edgeoe.text import markdown_code, markdown_text, visible, visible_lines, with_short_names

ACTS = [
    "\x1b]0;title\x07",  # OSC: the title of the terminal
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",  # a link
    "\x1b[2J\x1b[H",  # clears it
    "\x9b31m",  # CSI in one byte
    "ok\rno",
    "a\nmain: passed",
    "a\u2028b",
    "\u202egnp.exe",  # right to left
    "\u2066x\u2069",
    "\u200e",
    "\ufeff",
    "\x00\x7f\x85",
    "\U000e0041",  # a tag
    "::error title=x::y",
    "x ::set-env name=a::b",
    "##[add-mask]x",
    "##vso[task.setvariable variable=a]b",
    "##teamcity[x]",
]


@pytest.mark.parametrize("text", ACTS)
def test_what_acts_is_shown_as_an_escape(text: str) -> None:
    shown = visible(text)
    assert shown != text
    assert re.search(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt])", shown)


@given(st.lists(st.text(max_size=300), max_size=4).map("/".join))
def test_names_are_shortened_in_the_middle_and_only_long_ones(text: str) -> None:
    names, shown = re.split(r"[\s/:]", text), re.split(r"[\s/:]", with_short_names(text))
    assert len(names) == len(shown)
    for name, short in zip(names, shown, strict=True):
        assert short == (name if len(name) <= 120 else f"{name[:50]}...{name[-50:]}")


def is_harmless(text: str, *, allowed: str = "") -> bool:
    acts = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return not any(
        unicodedata.category(each) in acts and each not in f"{allowed}\u200c\u200d" for each in text
    ) and not re.search(r"(^|\s)::\S|##\w*\[", text)


@given(st.text() | st.lists(st.sampled_from([*ACTS, "a", " ", ":", "#", "["])).map("".join))
def test_nothing_acts_and_harmless_text_stays(text: str) -> None:
    assert is_harmless(visible(text))
    assert is_harmless(visible_lines(text), allowed="\n\t")
    if is_harmless(text):
        assert visible(text) == visible_lines(text) == text
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize("text", ["Gänse", "猫", "می‌خواهم", "👩‍🚀", "std::vector", "C#", "# 1", "[red]x[/]", "a  b\\n"])
def test_names_of_any_language_stay(text: str) -> None:
    assert visible(text) == text


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    stream = io.StringIO()
    for name in ("out", "err"):
        console = _Console(file=stream, width=60, force_terminal=False, highlight=False, markup=False, emoji=False)
        for module in ("terminal", "comparison"):
            monkeypatch.setattr(f"edgeoe.report.{module}.{name}", console, raising=False)
    return stream.getvalue


@pytest.mark.parametrize("text", ACTS)
def test_nothing_acts_on_the_terminal(text: str, printed: Callable[[], str]) -> None:
    from edgeoe.report import terminal

    say(text)
    say("a: ", (text, "bold"), to=terminal.err)
    terminal.out.print(table(text, (text, "b"), [(text, text)]))
    terminal.out.print(text)  # whoever forgets
    with bar(text, 1) as advance:
        advance()
    show_comparison(comparison(target=text, base=text, new=text, reason=text, notes=(text,)))
    report_failure(DataError(text), [])
    assert printed()
    assert is_harmless(printed(), allowed="\n\t")


def test_a_name_stays_on_its_line(printed: Callable[[], str]) -> None:
    say("class ", "a\nmain: passed")
    assert printed() == "class a\\nmain: passed\n"


def test_a_message_is_one_line_of_the_log_file(
    tmp_path: Path, edgeoe: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "x\n2026-01-01 00:00:00,000 INFO edgeoe: forged\x1b[2J"
    edgeoe("samples", tmp_path / name, "--log-file", tmp_path / "log.txt")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines
    assert not any(line.startswith("2026-01-01 00:00:00,000 INFO") for line in lines)
    assert is_harmless("\n".join(lines), allowed="\n\t")


def test_control_sequences_of_the_console_itself_pass() -> None:
    stream = io.StringIO()
    console = _Console(file=stream, force_terminal=True, width=60, markup=False, legacy_windows=False)
    with Progress(console=console) as progress:
        progress.update(progress.add_task("x", total=2), advance=1, refresh=True)
    assert "\x1b[" in stream.getvalue()


MARKUP = [
    "[click](http://evil)",
    "![x](https://evil/track.png)",
    "<img src=x onerror=y>",
    "<!-- edgeoe -->",
    "a | b",
    "`code`",
    "**bold** _it_ ~~no~~",
    "&#64;team",
    "@team please",
    "see #1",
    "https://evil.example",
    "www.evil.example",
    "a@b.example",
    "$x$",
]


@pytest.mark.parametrize("text", MARKUP)
def test_markdown_is_text(text: str) -> None:
    made = markdown_text(text)
    bare = re.sub(r"\\[\\`*_<\[|~&]", "", made).replace("<!-- -->", "\0")
    assert not re.search(r"[`*_<\[|~&]|@\w|#\d|://|www\.", bare), made
    shown = re.sub(r"\\([\\`*_<\[|~&])", r"\1", made.replace("<!-- -->", ""))
    assert shown in (text, text.replace("<!-- edgeoe -->", "<!-- edgeoe -->"))


@given(st.text() | st.sampled_from([*MARKUP, *ACTS]))
def test_no_name_leaves_its_place_in_markdown(text: str) -> None:
    assert re.fullmatch(r"`[^`|]+`", markdown_code(text))
    document = markdown_of_comparisons([comparison(target=text, base=text, new=text, notes=(text,), reason=text)])
    assert is_harmless(document, allowed="\n")
    assert document.count("<details>") == document.count("</details>") == 1
    plain = re.sub(r"`[^`\n]*`", "", document.replace("[95 %]", "")).replace("<!-- -->", "\0")
    assert not re.search(r"(?<!\\)\[|@\w|://", plain)


def test_annotations_take_no_further_command(capsys: pytest.CaptureFixture[str]) -> None:
    GitHub().write_comparisons([comparison(target="x\n::error::y\r::z", reason="\x1b")], None)
    for line in capsys.readouterr().out.splitlines():
        assert re.match(r"::(error|warning|notice) title=[^:]*::", line)
        assert is_harmless(line.partition("::")[2].partition("::")[2])


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("text", [*ACTS[:12], "<script>alert(1)</script>", '"><img src=x onerror=y>'])
def test_a_page_runs_nothing_and_loads_nothing(text: str) -> None:
    made = validation_page(validation(notes=(text,)))
    page = _Page()
    page.feed(made)
    assert is_harmless(made, allowed="\n\t")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "link", "form"}
    policies = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]


def test_junit_holds_no_control() -> None:
    assert is_harmless(junit_of_comparisons([comparison(target="\x1b[2J\u202e", base="\r")]), allowed="\n\t")


def test_log_records_reach_the_terminal_harmless(
    edgeoe: Callable[..., tuple[int, str, str]], pictures: Path, tmp_path: Path
) -> None:
    logging.getLogger("edgeoe").debug("nothing")
    (tmp_path / "a\x1b[2J").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "\x1b]0;x\x07.png").write_text("no image")
    code, out, err = edgeoe("samples", tmp_path)
    assert code == 2
    assert "\\x1b" in out
    assert is_harmless(out, allowed="\n")
    assert is_harmless(err, allowed="\n")
