"""An SSH server in this process that stands for a device: commands run in a shell here, with a home of its own."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import asyncssh


@dataclass
class Board:
    """A device under test.

    home: its home folder.
    port: on 127.0.0.1.
    path: folders of its programs, before the system's.
    connections: those that are open.
    """

    home: Path
    loop: asyncio.AbstractEventLoop
    port: int = 0
    path: str = ""
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    served: int = 0
    commands: set[asyncio.Task[None]] = field(default_factory=set)
    server: asyncssh.SSHAcceptor | None = None

    def cut(self) -> None:
        """Cut all connections, as a broken cable does."""
        self._call(self._cut())

    def switch_off(self) -> None:
        """Cut all connections, and accept none any more."""
        self._call(self._close())

    async def _cut(self) -> None:
        for connection in self.connections:
            connection.abort()
        self.connections.clear()
        for command in self.commands:
            command.cancel()
        await asyncio.gather(*self.commands, return_exceptions=True)

    async def _close(self) -> None:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()
        await self._cut()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


class _Server(asyncssh.SSHServer):
    def __init__(self, board: Board) -> None:
        self._board = board

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._board.connections.append(conn)
        self._board.served += 1


@contextmanager
def boards(folder: Path, *names: str) -> Iterator[dict[str, Board]]:
    """SSH servers with one client key, and a home for the client in `folder`/client: HOME must be set to it."""
    client = folder / "client" / ".ssh"
    client.mkdir(parents=True)
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(client / "id_ed25519")
    authorized = asyncssh.import_authorized_keys(key.export_public_key().decode())
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    running = {name: Board(folder / name, loop) for name in names}
    known, aliases = [], []
    try:
        for name, board in running.items():
            board.home.mkdir()
            host_key = asyncssh.generate_private_key("ssh-ed25519")
            board.server = board._call(_listen(board, host_key, authorized))
            board.port = board.server.get_port()
            known.append(f"[127.0.0.1]:{board.port} {host_key.export_public_key().decode().strip()}\n")
            aliases.append(f"Host {name}\n  HostName 127.0.0.1\n  Port {board.port}\n  User tester\n")
        (client / "known_hosts").write_text("".join(known))
        (client / "config").write_text("".join(aliases))
        yield running
    finally:
        for board in running.values():
            board.switch_off()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _listen(board: Board, key: asyncssh.SSHKey, authorized: asyncssh.SSHAuthorizedKeys) -> asyncssh.SSHAcceptor:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        task = asyncio.current_task()
        assert task is not None
        board.commands.add(task)
        child = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            process.command or "exit 1",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "HOME": str(board.home), "PATH": f"{board.path}:{os.environ['PATH']}"},
            cwd=board.home,
        )
        assert child.stdin is not None
        try:
            feeding = asyncio.create_task(_copy(process.stdin, child.stdin))
            await asyncio.gather(_copy(child.stdout, process.stdout), _copy(child.stderr, process.stderr))
            code = await child.wait()
            process.exit(code if code >= 0 else 128 - code)
        finally:
            feeding.cancel()
            board.commands.discard(task)
            child.stdin.close()
            if child.returncode is None:
                child.kill()
                await child.wait()

    return await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: _Server(board),
        server_host_keys=[key],
        authorized_client_keys=authorized,
        process_factory=run,
        encoding=None,
    )


async def _copy(source: Any, sink: Any) -> None:
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
