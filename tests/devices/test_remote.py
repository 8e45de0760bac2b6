"""Jobs on devices that are reached by SSH."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from ssh_server import Board, boards

from edgeoe.devices.agent import CHUNK
from edgeoe.devices.connection import Connection
from edgeoe.devices.remote import Job, run_job
from edgeoe.errors import ConfigError, DeviceError
from edgeoe.progress import Progress, silent
from edgeoe.targets.address_book import Device

PROGRAM = b"import pathlib, sys; pathlib.Path('r').write_bytes(pathlib.Path(sys.argv[1], 'data').read_bytes()[::-1])"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    with boards(tmp_path, "kitchen") as running:
        monkeypatch.setenv("HOME", str(tmp_path / "client"))
        yield running["kitchen"]


def device(**changes: object) -> Device:
    return Device(**{"host": "kitchen", "target": "host-cpu", "python": sys.executable, **changes})  # type: ignore[arg-type]


def job(program: bytes = PROGRAM, data: bytes = b"abc") -> Job:
    return Job({"run.py": program, "data": data}, ("{python}", "{bundle}/run.py", "{bundle}"), "r")


def done(
    one: Job,
    on: Device | None = None,
    *,
    patience_s: float = 20.0,
    progress: Progress = silent,
    connect: type[Connection] = Connection,
) -> bytes:
    async def work() -> bytes:
        async with connect("kitchen", on or device(), patience_s=patience_s) as connection:
            return await run_job(connection, one, progress=progress)

    return asyncio.run(work())


def test_a_job_runs_there_and_its_result_comes_back(board: Board) -> None:
    data = bytes(range(256)) * 20_000  # several pieces
    assert done(job(data=data)) == data[::-1]
    assert {path.name for path in (board.home / ".cache/edgeoe-device").iterdir()} == {"jobs", "objects", "lock"}
    assert not [*(board.home / ".cache/edgeoe-device/jobs").iterdir()]


def test_what_is_there_is_not_sent_again(board: Board) -> None:
    sent: list[str] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
        sent.append(f"{title} {total}")
        yield lambda: None

    done(job(), progress=progress)
    assert sent == ["kitchen: sending 2"]
    done(job(data=b"other"), progress=progress)
    assert sent[1:] == ["kitchen: sending 1"]
    done(job(data=b"other"), progress=progress)
    assert len(sent) == 2


def test_a_file_that_arrived_in_part_is_continued(board: Board) -> None:
    data = bytes(3 * CHUNK)
    part = board.home / ".cache/edgeoe-device/objects" / f".{sha256(data).hexdigest()}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[: 2 * CHUNK])
    asked: list[int] = []

    class Counting(Connection):
        async def ask(self, op: str, data: bytes = b"", **request: Any) -> tuple[dict[str, Any], bytes]:
            if op == "put" and len(data) == CHUNK:
                asked.append(request["offset"])
            return await super().ask(op, data, **request)

    assert done(job(data=data), connect=Counting) == data
    assert asked == [2 * CHUNK]


def test_a_part_that_is_damaged_is_sent_again(board: Board) -> None:
    part = board.home / ".cache/edgeoe-device/objects" / f".{sha256(b'abc').hexdigest()}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x")
    assert done(job()) == b"cba"


def test_a_cut_connection_is_resumed_and_the_program_runs_once(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    program = b"import os, time; open('n', 'a').write('x'); time.sleep(3); os.rename('n', 'r')"
    with ThreadPoolExecutor() as pool:
        coming = pool.submit(done, job(program))
        until(lambda: [*board.home.glob(".cache/edgeoe-device/jobs/*/out/n")])
        board.cut()
        assert coming.result() == b"x"
    assert board.served == 2
    assert "the connection was cut" in caplog.text


def test_a_device_that_stays_away_is_given_up(board: Board) -> None:
    with ThreadPoolExecutor() as pool:
        coming = pool.submit(done, job(b"import time; time.sleep(3)"), patience_s=1)
        until(lambda: [*board.home.glob(".cache/edgeoe-device/jobs/*/log")])
        board.switch_off()
        with pytest.raises(DeviceError, match="kitchen: no connection for 1 s: "):
            coming.result()


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (b"import sys; print('error: no space.', file=sys.stderr); sys.exit(2)", "^kitchen: no space.$"),
        (b"1 / 0", "^kitchen: ZeroDivisionError: division by zero \\(exit code 1\\)$"),
        (b"import os; os.kill(os.getpid(), 9)", "^kitchen: it said nothing \\(exit code 137\\)$"),
        (b"", "^kitchen: r: the job wrote no such file$"),
    ],
)
def test_a_program_that_fails_is_one_line(board: Board, program: bytes, line: str) -> None:
    with pytest.raises(DeviceError, match=line):
        done(job(program))


def test_a_second_job_waits_for_the_first(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    times = b"import time; s = time.time(); time.sleep(1); open('r', 'w').write(f'{s} {time.time()}')"
    with ThreadPoolExecutor() as pool:
        results = [part.split() for part in pool.map(done, [job(times), job(times)])]
    (_, end), (start, _) = sorted((float(start), float(end)) for start, end in results)
    assert end <= start
    assert re.search("kitchen is in use by .+ on .+, since 20", caplog.text)


def test_an_interrupted_job_ends_there_too(board: Board) -> None:
    program = b"import pathlib, time; pathlib.Path('n').touch(); time.sleep(60)"

    async def work() -> None:
        async with Connection("kitchen", device()) as connection:
            task = asyncio.create_task(run_job(connection, job(program)))
            while not [*board.home.glob(".cache/edgeoe-device/jobs/*/out/n")]:
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(work())
    until(lambda: [*board.home.glob(".cache/edgeoe-device/jobs/*/exit")])
    assert done(job()) == b"cba"  # nothing holds the device


def test_the_bars_of_a_device_follow_its_program(board: Board) -> None:
    steps: list[str] = []

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
        yield lambda: steps.append(title)

    program = b"print('Building: 50 %\\nBuilding: 100 %\\nMeasuring: 100 %\\nnoise'); open('r', 'w')"
    done(job(program), progress=progress)
    assert steps[2:] == ["kitchen: Building"] * 10 + ["kitchen: Measuring"] * 10


def test_leftovers_are_bounded(board: Board) -> None:
    done(job(data=bytes(2_000_000)), device(keep_mb=1))
    stored = [path.stat().st_size for path in (board.home / ".cache/edgeoe-device/objects").iterdir()]
    assert sum(stored) <= 1_000_000


@pytest.mark.parametrize(
    ("on", "line"),
    [
        (device(python="python9"), "python9 can't be started there"),
        (device(python="false"), "its false does not answer: exit code 1"),
        (device(folder="/proc/x"), "/proc/x"),
        (device(host="127.0.0.1:1"), "kitchen: "),
        (device(host="no such host"), "not of the form"),
    ],
)
def test_what_can_not_be_used_is_one_line(board: Board, on: Device, line: str) -> None:
    with pytest.raises((DeviceError, ConfigError), match=line):
        done(job(), on)


def test_a_login_shell_that_talks_is_tolerated(board: Board) -> None:
    assert done(job(), device(python=f"echo Welcome; {sys.executable}")) == b"cba"


def test_an_unknown_host_key_is_refused(board: Board, tmp_path: Path) -> None:
    (tmp_path / "client/.ssh/known_hosts").write_text("")
    with pytest.raises(DeviceError, match="its host key is not in"):
        done(job())


def test_another_users_key_is_refused(board: Board, tmp_path: Path) -> None:
    key = tmp_path / "client/.ssh/id_ed25519"
    key.unlink()
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
    with pytest.raises(DeviceError, match="lets none of your keys in"):
        done(job())


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
