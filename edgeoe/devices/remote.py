"""Jobs on devices: files are sent where they are missing, a program runs there, and its result comes back."""

from __future__ import annotations

import asyncio
import getpass
import logging
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from edgeoe.devices.agent import CHUNK
from edgeoe.devices.connection import Connection
from edgeoe.errors import DeviceError
from edgeoe.progress import Progress, silent
from edgeoe.text import visible

__all__ = ["Job", "bundle_job", "run_job"]

_log = logging.getLogger(__name__)
_WAIT_S = 5.0  # for news of a job, in one request
_STOP_S = 10.0  # for an interrupted job to be told
_STEP = re.compile(r"(.+): (\d{1,3}) %")


@dataclass(frozen=True, slots=True)
class Job:
    """A program to run on a device.

    files: its bundle, by path.
    command: {python} and {bundle} stand for the device's Python and the folder of the bundle.
    result: file that it writes in its working folder.
    exclusive: no other exclusive job runs meanwhile; needed for what is measured.
    """

    files: Mapping[str, bytes]
    command: Sequence[str]
    result: str
    exclusive: bool = True


def bundle_job(files: Mapping[str, bytes], result: str, *, exclusive: bool = True) -> Job:
    """The job that runs a bundle's own program, which writes `result`."""
    return Job(files, ("{python}", "{bundle}/run.py", "--out", result), result, exclusive)


async def run_job(connection: Connection, job: Job, *, progress: Progress = silent) -> bytes:
    """Run `job` on a device, and return its result. Exclusive ones wait for each other.

    Raises DeviceError if the device can't be reached or the program fails. Interrupted, the job there is, too.
    """
    hashes = {name: sha256(data).hexdigest() for name, data in job.files.items()}
    contents = {hashes[name]: data for name, data in job.files.items()}
    name = secrets.token_hex(8)
    await _send(connection, contents, progress)
    async with _stopped_when_cancelled(connection, name):
        while missing := await _start(connection, name, job, hashes):  # another host may have cleaned up
            await _send(connection, {one: contents[one] for one in missing}, progress)
        await _until_ended(connection, name, progress)
        result = await _fetched(connection, name, job.result)
    await connection.ask("clean", job=name, keep=1_000_000 * connection.device.keep_mb)
    return result


async def _start(connection: Connection, name: str, job: Job, hashes: Mapping[str, str]) -> Mapping[str, int]:
    """Start the job. Returns what is missing for that."""
    who = f"{getpass.getuser()} on {socket.gethostname()}"
    reply, _ = await connection.ask(
        "start", job=name, files=hashes, command=list(job.command), who=who, exclusive=job.exclusive
    )
    missing: Mapping[str, int] = reply["missing"]
    return missing


async def _send(connection: Connection, contents: Mapping[str, bytes], progress: Progress) -> None:
    """Send files, by sha256, where they are missing; one that arrived in part is continued."""
    reply, _ = await connection.ask("have", files=sorted(contents))
    missing: Mapping[str, int] = reply["missing"]
    if not missing:
        return
    with progress(f"{connection.name}: sending", sum(1 + len(contents[one]) // CHUNK for one in missing)) as advance:
        for one, there in missing.items():
            await _send_one(connection, one, contents[one], there, advance)


async def _send_one(connection: Connection, digest: str, data: bytes, there: int, advance: Callable[[], None]) -> None:
    for _ in range(there // CHUNK):
        advance()
    while True:
        piece = data[there : there + CHUNK]
        reply, _ = await connection.ask("put", piece, sha256=digest, offset=there, total=len(data))
        advance()
        if reply["there"] == len(data):
            return
        there = reply["there"]


async def _until_ended(connection: Connection, name: str, progress: Progress) -> None:
    """Follow a job, and raise DeviceError if it failed."""
    log, offset, state = _Log(connection.name, progress), 0, "running"
    with log:
        while state in ("running", "waiting"):
            reply, text = await connection.ask("follow", job=name, offset=offset, known=state, wait=_WAIT_S)
            offset, state = offset + len(text), reply["state"]
            log.read(text)
            if state == "waiting":
                log.waits_for(reply["for"])
    _require_success(connection.name, reply, log.last)


def _require_success(name: str, reply: Mapping[str, Any], last: str) -> None:
    if reply["state"] != "ended":
        raise DeviceError(f"{name}: the program there has gone: was the device switched off? Last it said: {last!r}")
    if reply["code"]:
        message = last.removeprefix("error: ") or "it said nothing"
        code = "" if last.startswith("error: ") else f" (exit code {reply['code']})"
        raise DeviceError(f"{name}: {message}{code}")


class _Log:
    """What a program on a device prints: progress moves bars here, other lines go to the log."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.last = ""
        self._name, self._progress = name, progress
        self._rest, self._holder = b"", ""
        self._title, self._share = "", 0
        self._bar = ExitStack()
        self._advance: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def read(self, text: bytes) -> None:
        *lines, self._rest = (self._rest + text).split(b"\n")
        for raw in lines:
            line = visible(raw.decode(errors="replace").rstrip())
            if step := _STEP.fullmatch(line):
                self._move(step[1], int(step[2]))
            elif line:
                self.last = line
                _log.info("%s: %s", self._name, line)

    def _move(self, title: str, share: int) -> None:
        if title != self._title or share < self._share:
            self._bar.close()
            self._advance = self._bar.enter_context(self._progress(f"{self._name}: {title}", 10))
            self._title, self._share = title, 0
        while self._share + 10 <= share:
            self._advance()
            self._share += 10

    def waits_for(self, holder: str) -> None:
        if holder != self._holder:
            self._holder = holder
            _log.warning("%s is in use by %s; this job waits", self._name, visible(holder))


async def _fetched(connection: Connection, name: str, file: str) -> bytes:
    data = b""
    while True:
        reply, piece = await connection.ask("fetch", job=name, name=file, offset=len(data))
        data += piece
        if len(data) >= reply["total"]:
            return data


@asynccontextmanager
async def _stopped_when_cancelled(connection: Connection, name: str) -> AsyncIterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        with suppress(Exception):
            await asyncio.wait_for(connection.ask("stop", job=name), _STOP_S)
        raise
