"""The Python API: loose arguments, nouns that it exports, messages that speak of arguments, what a notebook shows."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest
from made_up import QUICK_PROFILE
from torch import nn

import edgeoe
from edgeoe.api.arguments import shown as progress_of
from edgeoe.codec import record_text
from edgeoe.errors import on_command_line
from edgeoe.progress import silent
from edgeoe.report import terminal
from edgeoe.run import layout
from edgeoe.settings import CompressSettings

FUNCTIONS = [
    value
    for name in edgeoe.__all__
    if inspect.isfunction(value := getattr(edgeoe, name)) and value.__module__.startswith("edgeoe.api.")
]
OPTION = re.compile(r"(?<![\w-])--[a-z]")
SHELL = re.compile(r": edgeoe baseline [^.]*")  # a command that no function stands for


@pytest.fixture(autouse=True)
def _no_command_line(_messages_speak_of_options: None) -> Iterator[None]:
    with on_command_line(False):
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a profile host-cpu measures quickly."""
    monkeypatch.chdir(tmp_path)
    Path("targets").mkdir()
    Path("targets/host-cpu.toml").write_text(QUICK_PROFILE, encoding="utf-8")
    return tmp_path


def types_in(hint: Any) -> Iterator[type]:
    """Every class within an annotation, and within the fields of edgeoe's records in it."""
    seen: set[Any] = set()
    open_ = [hint]
    while open_:
        one = open_.pop()
        if isinstance(one, (list, tuple)):
            open_ += one
        elif typing.get_args(one):
            open_ += [part for part in typing.get_args(one) if typing.get_origin(one) is not Literal]
        elif isinstance(one, type) and one not in seen:
            seen.add(one)
            yield one
            if one.__module__.startswith("edgeoe.") and dataclasses.is_dataclass(one):
                open_ += typing.get_type_hints(one).values()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_noun_of_a_public_function_is_public(function: types.FunctionType) -> None:
    known = {"nn": nn} | {name: getattr(edgeoe, name) for name in edgeoe.__all__}
    hints = typing.get_type_hints(function, localns=known)  # a NameError names a noun that is not public
    nouns = {one for hint in hints.values() for one in types_in(hint) if one.__module__.startswith("edgeoe.")}
    assert {one.__name__ for one in nouns} <= set(edgeoe.__all__)


def test_the_walk_over_annotations_sees_what_is_inside() -> None:
    seen = {one.__name__ for one in types_in(dict[str, list[edgeoe.Validation] | None])}
    assert {"Validation", "Measurement", "Latency", "Estimate", "Target", "Budget"} - seen == {"Budget"}


def test_completion_shows_every_public_name() -> None:
    assert set(edgeoe.__all__) <= set(dir(edgeoe))


def test_every_error_of_edgeoe_is_public() -> None:
    assert {kind.__name__ for kind in edgeoe.EdgeoeError.__subclasses__()} - set(edgeoe.__all__) == set()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_docstring_names_every_parameter(function: types.FunctionType) -> None:
    told = re.findall(r"^    (\w[\w, ]*): ", function.__doc__ or "", re.M)
    names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    assert set(names) - {name.strip() for row in told for name in row.split(",")} <= {"run"}


def test_the_settings_of_compress_can_be_completed() -> None:
    shown = inspect.signature(edgeoe.compress).parameters
    assert {field.name for field in dataclasses.fields(CompressSettings)} <= set(shown)


def test_the_line_takes_text_lists_dicts_and_names(settings: CompressSettings, pictures: Path, folder: Path) -> None:
    run = edgeoe.compress(
        teacher=settings.teacher,
        weights=str(settings.weights),
        samples=str(pictures / "train"),
        ood=str(pictures / "ood"),
        preprocess={"size": [16, 16], "mean": [0.4, 0.4, 0.4], "std": [0.3, 0.3, 0.3]},
        oe_settings={"holdout": 0.0},
        exclude=["stem*"],
        target=["host-cpu"],
        channel_multiple=1,
        steps=2,
        batch=8,
        accelerator="cpu",
        widths="global",
        out="runs/a",
        progress=edgeoe.silent,
    )
    assert isinstance(run, edgeoe.Run)
    assert repr(run).startswith("Run('runs/a': mir with OE, ")
    assert repr(run).endswith(" % of the MACs; not validated)")
    exported = edgeoe.export("runs/a", precisions="int8", int8={"calibration": "minmax"})
    assert exported.graphs
    edgeoe.build(run, "host-cpu")
    validation = edgeoe.validate(Path("runs/a"), edgeoe.load_target("host-cpu"), test=str(pictures / "test"))
    assert re.fullmatch(r"Validation\('host-cpu': passed, p50 [\d.]+ ms, top-1 [\d.]+ %\)", repr(validation))
    assert repr(run).endswith("; host-cpu passed)")
    packed = edgeoe.bundle("runs/a", "host-cpu", out="a.tar")
    assert Path(packed.path).is_file()
    (compared,) = edgeoe.compare(run, "runs/a", target="host-cpu", settings={"most_rounds": 1}, stored=True)
    assert compared.how == "stored"
    (judged,) = edgeoe.deploy(run_settings(settings, pictures), out="runs/b", test=str(pictures / "test"))
    assert isinstance(judged, edgeoe.Judged)
    assert repr(judged) == f"Judged({judged.validation.summary})"
    for page in (run._repr_html_(), validation._repr_html_(), judged._repr_html_()):
        assert_stands_alone(page)


def run_settings(settings: CompressSettings, pictures: Path) -> dict[str, Any]:
    """Settings as a dict, paths as text."""
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {**given, "samples": str(pictures / "train"), "ood": str(pictures / "ood"), "steps": 2}


class _Frames(HTMLParser):
    """The attributes of every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def assert_stands_alone(page: str | None) -> None:
    assert page is not None
    frames = _Frames()
    frames.feed(page)
    ((tag, attributes),) = frames.tags
    assert (tag, attributes["sandbox"]) == ("iframe", "")
    inner = attributes["srcdoc"] or ""
    assert inner.lstrip().startswith("<!doctype html>")
    parsed = _Frames()
    parsed.feed(inner)
    assert len(parsed.tags) > 10
    assert {"script", "link", "img", "iframe"} & {tag for tag, _ in parsed.tags} == set()
    assert not any({"src", "href"} & attributes.keys() for _, attributes in parsed.tags)


def test_a_run_shows_itself_whatever_is_there(exported: Path, tmp_path: Path) -> None:
    assert repr(edgeoe.Run(tmp_path / "none")) == f"Run({str(tmp_path / 'none')!r}: no finished run)"
    assert edgeoe.Run(tmp_path / "none")._repr_html_() is None
    run = edgeoe.Run(exported)
    (exported / layout.COMPRESS.name).write_text("{}", encoding="utf-8")
    assert "changed since edgeoe wrote it" in repr(run)
    assert run._repr_html_() is None


def test_what_a_page_shows_of_a_run_is_escaped(exported: Path) -> None:
    run = edgeoe.Run(exported)
    facts = dataclasses.replace(run.read(layout.FACTS), classes=("</body><script>", 'a"b', "c&d"))
    text = record_text(facts, format=1)
    run.write(layout.FACTS, lambda path: path.write_text(text, encoding="utf-8"))
    page = run._repr_html_()
    assert_stands_alone(page)
    assert page is not None
    assert "<script>" not in unescape(page)


def test_progress_is_shown_where_it_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress_of(None) is silent
    monkeypatch.setattr(terminal.err, "_force_terminal", True)
    assert progress_of(None) is terminal.bar
    assert progress_of(edgeoe.silent) is silent
    monkeypatch.setattr(terminal.err, "is_jupyter", True)
    for widgets, shown in ((object(), terminal.bar), (None, silent)):
        monkeypatch.setattr(terminal, "find_spec", lambda _, spec=widgets: spec)
        assert progress_of(None) is shown


def away() -> edgeoe.Target:
    """A device that is not this machine."""
    device = edgeoe.DeviceFacts(cpu="No Such Processor")
    return dataclasses.replace(edgeoe.load_target("host-cpu"), name="away", device=device)


def test_a_latency_table_is_measured_here_or_bundled_and_collected(
    settings: CompressSettings,
    pictures: Path,
    folder: Path,
    network: Callable[[str], nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr("edgeoe.measure.latency_table._SECONDS", 0.0)
    teacher = network("residual")
    given = {**run_settings(settings, pictures), "teacher": None, "weights": None, "channel_multiple": 4}
    report = edgeoe.latency_table(given, teacher=teacher, method="kd")
    assert isinstance(report, edgeoe.TableReport)
    assert report.teacher_ms > 0
    assert isinstance(report.parts[0], edgeoe.PartSaving)
    again = edgeoe.latency_table(given, teacher=teacher, method="kd")
    assert (again.teacher_ms, again.parts) == (report.teacher_ms, report.parts), "measured once"
    packed = edgeoe.latency_table(given, teacher=teacher, target=away(), out="t.tar.gz")
    assert isinstance(packed, edgeoe.BundleRecord)
    table = edgeoe.LatencyTable(
        network="0" * 64,
        target=away(),
        environment={"cpu": "No Such Processor"},
        latencies_ms={"teacher": 1.0, "teacher in fp32": 2.0},
    )
    Path("table.json").write_text(record_text(table, format=1), encoding="utf-8")
    assert edgeoe.collect_table("table.json") == table


def provoked(settings: CompressSettings, pictures: Path, run: Path) -> dict[str, Callable[[], object]]:
    """Calls that fail, each on another fault of the user's."""
    good = run_settings(settings, pictures)

    def compress(**changes: Any) -> Callable[[], object]:
        return lambda: edgeoe.compress({**good, **changes}, out="new")

    return {
        "ood": compress(ood=None),
        "method": compress(method="mirr"),
        "goals": compress(keep_macs=0.5, keep_params=0.5),
        "share": compress(keep_macs=50),
        "key": compress(weights_key="a"),
        "argument": compress(keep_mac=0.5),
        "field": compress(preprocess={"sizes": [16, 16]}),
        "teacher": compress(teacher="resnet"),
        "no file": compress(teacher="gone.py:network"),
        "weights": compress(weights="gone.pt"),
        "no weights": compress(weights=None),
        "batch": compress(oe_settings={"ood_batch": 0}),
        "samples": compress(samples="gone"),
        "classes": compress(classes=["a", "a"]),
        "preprocess": compress(preprocess={}),
        "cut": compress(exclude=["*"]),
        "blocks": compress(keep_blocks=0.5),
        "device": compress(accelerator="cuda"),
        "precision": compress(precision="fp16"),
        "out": lambda: edgeoe.compress(good, out=run),
        "own weights": lambda: edgeoe.compress({**good, "teacher": "x"}, teacher=nn.Linear(1, 1), out="new"),
        "no run": lambda: edgeoe.export("nowhere"),
        "not built": lambda: edgeoe.validate(run, "host-cpu", test=pictures / "test"),
        "no graph": lambda: edgeoe.build(run, dataclasses.replace(edgeoe.load_target("host-cpu"), precision="int8")),
        "target": lambda: edgeoe.build(run, "host-cpi"),
        "bundle": lambda: edgeoe.bundle(run, "host-cpu", out="a.zip"),
        "compare": lambda: edgeoe.compare(run, run),
        "baseline": lambda: edgeoe.compare("main", run),
        "table": lambda: edgeoe.latency_table({**good, "target": ["host-cpu", "host-cpu"]}),
        "table elsewhere": lambda: edgeoe.latency_table(good, target=away()),
        "table file": lambda: edgeoe.collect_table("gone.json"),
        "inspect": lambda: edgeoe.inspect("timm:resnet_18"),
    }


def test_no_message_speaks_of_options(settings: CompressSettings, pictures: Path, exported: Path, folder: Path) -> None:
    said = {}
    for name, call in provoked(settings, pictures, exported).items():
        with pytest.raises(edgeoe.EdgeoeError) as raised:
            call()
        said[name] = str(raised.value)
    assert {name: text for name, text in said.items() if OPTION.search(SHELL.sub("", text))} == {}
    assert said["ood"] == "ood is missing: give a folder of any images to rebalance with, or pass oe=False."
    assert said["no run"].endswith("Make one: edgeoe.compress(..., out='nowhere')")
    assert said["not built"].endswith(f"Make it: edgeoe.build({str(exported)!r}, 'host-cpu')")
    assert said["table"] == "target: a latency table is of one device. Got 2."
    assert said["table elsewhere"].endswith("Bundle the table for the device: add out='away.tar.gz'")
    assert said["argument"] == "keep_mac: no such argument. Did you mean 'keep_macs'?"
