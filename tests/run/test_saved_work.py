"""What an unfinished compression has computed survives in a folder beside its run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from time import perf_counter

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from edgeoe.run import saved_work
from edgeoe.run.placement import work_folder
from edgeoe.run.saved_work import SavedWork, State, saved_work_folder, sweep_saved_work

INPUTS = {"steps": "6", "labelled samples": "ab"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written at once."""
    monkeypatch.setattr(saved_work, "EVERY_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved_work_folder(tmp_path / "a")


def opened(folder: Path, **changes: str) -> SavedWork:
    return SavedWork.open(folder, lambda: {**INPUTS, **changes})


def state(number: int, key: str = "k") -> State:
    g = torch.Generator().manual_seed(number)
    tensors = {"w": torch.randn(2, 3, 4, 4, generator=g).contiguous(memory_format=torch.channels_last)}
    tied = {"tied": tensors["w"], "empty": torch.empty(0), "count": torch.tensor(number), "half": torch.ones(2).half()}
    return State(key, {"number": number, "score": float("-inf")}, {**tensors, **tied})


def never() -> None:
    raise AssertionError("it is known")


@pytest.mark.usefixtures("at_once")
@examples(max_examples=30)
@given(values=st.dictionaries(st.text(), JSON, max_size=5))
def test_values_are_computed_once_and_read_back_as_they_were(
    values: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("work") / ".a.resume"
    work = opened(folder)
    for key in values:
        assert work.kept(key, partial(values.get, key)) == values[key]
    again = opened(folder)
    assert [again.kept(key, never) for key in values] == [*values.values()]


@pytest.mark.usefixtures("at_once")
@examples(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["cut", "training"]), st.booleans()), min_size=1, max_size=8))
def test_the_last_state_of_each_name_is_read_back_and_no_other_file_stays(
    tmp_path_factory: pytest.TempPathFactory, saves: list[tuple[str, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("work") / ".a.resume"
    work, last = opened(folder), dict[str, int]()
    for number, (name, reopens) in enumerate(saves):
        work = opened(folder) if reopens else work
        work.save(name, state(number))
        last[name] = number
    again = opened(folder)
    assert len([*folder.iterdir()]) == 1 + len(last)
    for name, number in last.items():
        saved, expected = again.take(name, "k"), state(number)
        assert saved is not None
        assert saved.facts == expected.facts
        assert all(torch.equal(saved.tensors[key], tensor) for key, tensor in expected.tensors.items())
        assert again.take(name, "k") is None, "it is given once"


@pytest.mark.usefixtures("at_once")
def test_a_state_of_something_else_is_not_given(folder: Path) -> None:
    opened(folder).save("training", state(1))
    work = opened(folder)
    assert work.take("training", "other") is None
    assert work.take("training", "k") is not None


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": "7"}, "steps"),
        ({"steps": "7", "labelled samples": "cd"}, "steps, labelled samples"),
        ({"OOD images": "x"}, "OOD images"),
    ],
)
def test_work_of_other_inputs_is_discarded_with_a_reason(
    folder: Path, changes: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    opened(folder).kept("a", lambda: 1)
    assert opened(folder, **changes).is_empty
    assert caplog.messages == [f"starts anew: the interrupted compression differed in: {said}."]
    assert not folder.exists()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1, "states": {"cut": {"file": "../x"}}}', '{"format": 1, "values": {"a": "{"}}']
)
def test_a_damaged_index_starts_anew(folder: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    opened(folder).kept("a", lambda: 1)
    (folder / "index.json").write_text(text)
    assert opened(folder).is_empty
    assert "starts anew: what an interrupted compression left is incomplete" in caplog.text


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("change", [lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), Path.unlink])
def test_a_damaged_state_is_not_used(
    folder: Path, change: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    work = opened(folder)
    work.kept("a", lambda: 1)
    work.save("training", state(1))
    (file,) = folder.glob("*.safetensors")
    change(file)
    again = opened(folder)
    assert again.take("training", "k") is None
    assert again.kept("a", never) == 1
    assert "damaged, and not used" in caplog.text


def test_what_took_less_than_half_a_minute_leaves_nothing(folder: Path) -> None:
    work = opened(folder)
    work.kept("a", lambda: 1)
    assert not work.is_due
    work.flush()
    assert not folder.exists()


def test_values_that_are_not_written_yet_are_flushed(folder: Path) -> None:
    work = opened(folder)
    work.save("cut", state(1))
    work.kept("a", lambda: 1)
    assert opened(folder).values == {}
    work.flush()
    assert opened(folder).values == {"a": 1}
    work.remove()
    assert not folder.exists()


@pytest.mark.usefixtures("at_once")
def test_nothing_is_read_or_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    work = opened(folder)
    work.save("cut", state(1))
    work.remove()
    assert folder.is_symlink()
    assert not [*(tmp_path / "elsewhere").iterdir()]


@pytest.mark.usefixtures("at_once")
def test_a_full_disk_ends_the_saving_and_not_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, write: object) -> None:
        raise OSError(28, os.strerror(28), str(path))

    work = opened(folder)
    monkeypatch.setattr(saved_work, "write_atomic", full)
    work.save("cut", state(1))
    assert work.kept("a", lambda: 1) == 1
    (message,) = caplog.messages
    assert message == f"{folder}: can't be written (No space left on device): an interruption will lose the work."


@pytest.mark.usefixtures("at_once")
def test_seconds_are_those_of_all_processes_that_went_on(folder: Path) -> None:
    work = SavedWork.open(folder, lambda: INPUTS, began=perf_counter() - 100)
    work.kept("a", int)
    assert 100 <= work.seconds < 150
    again = SavedWork.open(folder, lambda: INPUTS, began=perf_counter() - 10)
    assert 110 <= again.seconds < 160
    again.kept("b", int)
    assert 110 <= opened(folder).seconds < 210
    assert opened(folder, steps="7").seconds < 50


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("finished", "there", "goes_on", "stays"),
    [
        ("ab", "ab", False, False),
        ("ab", "ab", True, True),  # the lock of the compression says that it lives
        ("ab", "cd", False, True),  # of a compression that was killed before it replaced the run
        ("", "ab", False, True),
        ("", "", False, True),
    ],
)
def test_what_a_finished_compression_left_goes(
    finished: str, there: str, goes_on: bool, stays: bool, folder: Path, tmp_path: Path
) -> None:
    work = opened(folder)
    work.kept("a", int)
    if finished:
        work.finish(finished)
    with ExitStack() as stack:
        if goes_on:  # in another thread, as a thread may take its own lock again
            stack.enter_context(_another_compression(tmp_path / "a"))
        sweep_saved_work(tmp_path / "a", there)
    assert folder.exists() == stays
    assert {path.name for path in tmp_path.iterdir()} <= {folder.name}


@contextmanager
def _another_compression(path: Path) -> Iterator[None]:
    begun, ends = Event(), Event()

    def compress() -> None:
        with work_folder(path, timeout_s=0.0):
            begun.set()
            ends.wait()

    thread = Thread(target=compress)
    thread.start()
    try:
        assert begun.wait(10)
        yield
    finally:
        ends.set()
        thread.join()


@pytest.mark.usefixtures("at_once")
def test_damaged_work_and_a_link_are_not_swept(folder: Path, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "index.json").write_text("{}")
    folder.symlink_to(elsewhere)
    sweep_saved_work(tmp_path / "a", "ab")
    folder.unlink()
    elsewhere.rename(folder)
    sweep_saved_work(tmp_path / "a", "ab")
    assert (folder / "index.json").read_text() == "{}"


def test_nothing_on_the_disk_needs_no_note(folder: Path) -> None:
    opened(folder).finish("ab")
    assert not folder.exists()
