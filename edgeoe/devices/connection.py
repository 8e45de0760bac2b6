"""A connection by SSH to the agent on a device, made again when it is cut."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shlex
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from edgeoe.devices import agent
from edgeoe.errors import ConfigError, DeviceError, first_line, quoted
from edgeoe.targets.address_book import Device

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Connection"]

_log = logging.getLogger(__name__)
_CONNECT_S, _SILENCE_S = 20.0, 10.0  # for a connection to be made; between signs of life, of which three may be missed
_PATIENCE_S = 180.0  # for a connection that was cut to be made again
_WAITS_S = (0.2, 1.0, 2.0, 5.0, 10.0)  # between attempts
_NOISE_BYTES = 1 << 16  # what a login shell may print first
_BOOTSTRAP = (
    "import sys;r=sys.stdin.buffer;n=int(r.readline());SOURCE=r.read(n).decode();"
    "exec(compile(SOURCE,'edgeoe-agent','exec'))"
)
_HOST = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<v6>[0-9a-fA-F:]+)\]|(?P<name>[^:\s]+))(?::(?P<port>\d{1,5}))?")


class Connection:
    """The agent of one device, as an asynchronous context.

    name: of the device, for messages.
    patience_s: how long a cut connection is tried again.
    """

    def __init__(self, name: str, device: Device, *, patience_s: float = _PATIENCE_S) -> None:
        self.name, self.device = name, device
        self._patience_s = patience_s
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: asyncssh.SSHClientProcess[bytes] | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Connection:
        try:
            await self._open()
        except BaseException as reason:
            await self._close()
            if isinstance(reason, _cuts()):
                raise DeviceError(f"{self.name}: {_why(reason)}") from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, reason: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def ask(self, op: str, data: bytes = b"", **request: Any) -> tuple[dict[str, Any], bytes]:
        """The agent's reply to a request, and the bytes with it. A cut connection is made again, and the request too.

        Raises DeviceError if the agent refuses, or the device stays away.
        """
        async with self._turn:
            try:
                reply, content = await self._patiently(op, data, request)
            except asyncio.CancelledError:
                await self._close()  # what is still under way would be taken for the next reply
                raise
        if "refused" in reply:
            raise DeviceError(f"{self.name}: {reply['refused']}")
        return reply, content

    async def _patiently(self, op: str, data: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        cut_at, waits = None, iter(_WAITS_S)
        while True:
            try:
                if self._process is None:
                    await self._open()
                return await self._exchange(op, data, request)
            except _cuts() as reason:
                await self._close()
                if cut_at is None:
                    cut_at = monotonic()
                    _log.warning("%s: the connection was cut (%s); it is tried again", self.name, _why(reason))
                if monotonic() - cut_at > self._patience_s:
                    raise DeviceError(
                        f"{self.name}: no connection for {self._patience_s:.0f} s: {_why(reason)}"
                    ) from None
                await asyncio.sleep(next(waits, _WAITS_S[-1]))

    async def _exchange(self, op: str, data: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        assert self._process is not None  # noqa: S101 - opened by the caller
        header = {**request, "op": op, "folder": self.device.folder, "size": len(data)}
        self._process.stdin.write(json.dumps(header).encode() + b"\n" + data)
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError(await self._last_words())
        reply = cast("dict[str, Any]", json.loads(line))
        return reply, await self._process.stdout.readexactly(reply["size"])

    async def _last_words(self) -> str:
        """Why the agent ended, as far as it said."""
        assert self._process is not None  # noqa: S101 - read from
        said = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
        return said[-1] if said else "the agent ended"

    # Opening

    async def _open(self) -> None:
        self._connection = connection = await asyncio.wait_for(self._connect(), _CONNECT_S)
        command = f"{self.device.python} -u -c {shlex.quote(_BOOTSTRAP)}"
        self._process = await connection.create_process(command, encoding=None)
        source = Path(agent.__file__).read_bytes()
        self._process.stdin.write(b"%d\n" % len(source) + source)
        await self._greeting()

    def _connect(self) -> Any:
        asyncssh = _asyncssh()
        parts = _HOST.fullmatch(self.device.host)
        if parts is None:
            raise ConfigError(f"{self.name}: host {quoted(self.device.host)} is not of the form [user@]host[:port].")
        given: dict[str, Any] = {"username": parts["user"], "port": parts["port"] and int(parts["port"])}
        return asyncssh.connect(
            parts["v6"] or parts["name"],
            keepalive_interval=_SILENCE_S,
            keepalive_count_max=3,
            **{key: value for key, value in given.items() if value},  # the others may stand in ~/.ssh/config
        )

    async def _greeting(self) -> None:
        """Read up to the agent's greeting: a login shell may print something first."""
        assert self._process is not None  # noqa: S101 - just started
        said = b""
        while len(said) < _NOISE_BYTES:
            line = await self._process.stdout.readline()
            if line == agent.GREETING:
                return
            if not line:
                break
            said += line
        raise DeviceError(f"{self.name}: {await self._why_no_agent(said)}")

    async def _why_no_agent(self, said: bytes) -> str:
        assert self._process is not None  # noqa: S101 - just started
        errors = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
        await self._process.wait_closed()
        python, code = quoted(self.device.python), self._process.exit_status
        if code in (126, 127):
            return f"{python} can't be started there. Name its Python: edgeoe devices add {self.name} --python PATH"
        what = (errors or said.decode(errors="replace").splitlines() or [f"exit code {code}"])[-1]
        return f"its {python} does not answer: {what}. edgeoe needs Python 3.10 or newer there."

    async def _close(self) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            process.close()
        if connection is not None:
            connection.abort()
            await connection.wait_closed()


def _asyncssh() -> Any:
    try:
        import asyncssh
    except ImportError:
        raise ConfigError('asyncssh is missing, which reaches devices. Install it: pip install "edgeoe[ssh]"') from None
    return asyncssh


def _cuts() -> tuple[type[BaseException], ...]:
    """What a connection that can't be made, or is cut, raises."""
    asyncssh = _asyncssh()
    return (OSError, EOFError, asyncio.TimeoutError, asyncssh.Error, asyncio.IncompleteReadError)


def _why(reason: BaseException) -> str:
    """Why there is no connection, and what to do."""
    asyncssh = _asyncssh()
    if isinstance(reason, asyncssh.HostKeyNotVerifiable):
        return "its host key is not in ~/.ssh/known_hosts. Log in once with ssh, and compare the key's fingerprint."
    if isinstance(reason, asyncssh.PermissionDenied):
        return "it lets none of your keys in. Try: ssh with the same host name; a key with a passphrase needs ssh-add."
    if isinstance(reason, TimeoutError | asyncio.TimeoutError):
        return f"no answer within {_CONNECT_S:.0f} s. Is it switched on, and in this network?"
    return f"{first_line(reason) or type(reason).__name__}"
