"""Databases to test with: files of SQLite, and a private cluster of PostgreSQL that can be killed."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg


def _binary(name: str) -> str:
    there = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = str(there[-1]) if there else shutil.which(name)
    assert found, f"PostgreSQL's `{name}` is not here: run `make setup-tests`"
    return found


class Postgres:
    """A cluster of our own in a temporary folder; it listens on a Unix socket there and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.getuid() == 0 else None
        self._server: subprocess.Popen[bytes] | None = None
        self._count = 0
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "entrepot", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [_binary(name), *arguments], user=self._user, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def url(self, database: str) -> str:
        return f"postgresql://entrepot@/{database}?host={self.folder}"

    def start(self) -> None:
        """Returns when it answers. What is not synced is lost with the machine only, so no time is spent on it."""
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *(_binary("postgres"), "-D", str(self.data), "-k", str(self.folder), "-c", "listen_addresses="),
                    *("-c", "fsync=off", "-c", "max_connections=60", "-c", "shared_buffers=16MB"),
                ],
                user=self._user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while subprocess.run([_binary("pg_isready"), "-q", "-h", str(self.folder)], check=False).returncode:
            if self._server.poll() is not None:  # of one that was killed, something still lives
                return self.start()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)
        return None

    def kill(self) -> None:
        """As the machine's out-of-memory killer would."""
        assert self._server is not None
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()

    def stop(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(10)

    async def create(self) -> str:
        """The URL of a new database."""
        self._count += 1
        name = f"test{self._count}"
        connection = await asyncpg.connect(self.url("postgres"))
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return self.url(name)


@contextmanager
def cluster() -> Iterator[Postgres]:
    # Not below pytest's own folder, which only its owner may enter; and a socket's path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="entrepot-pg-"))
    server = None
    try:
        server = Postgres(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder)


class Wire:
    """Between a client and the cluster: breaks the connection at the next COMMIT, before or after it is passed on.

    `then` is called at that moment.
    """

    def __init__(self) -> None:
        self.breaks: str | None = None
        self.broken = 0
        self.then: Callable[[], None] | None = None

    def _take(self) -> str | None:
        breaks, self.breaks = self.breaks, None
        self.broken += breaks is not None
        if breaks is not None and self.then is not None:
            self.then()
        return breaks

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
        try:
            from_server, to_server = await asyncio.open_unix_connection(path)
        except OSError:  # the server is away
            writer.close()
            return
        back = asyncio.ensure_future(_pump(from_server, writer))
        try:
            while data := await reader.read(65536):
                breaks = self._take() if b"COMMIT" in data else None
                if breaks == "before":
                    break
                if breaks == "after":
                    back.cancel()
                    to_server.write(data)
                    await from_server.read(1)
                    break
                to_server.write(data)
        finally:
            back.cancel()
            to_server.close()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


@asynccontextmanager
async def wired(server: Postgres, url: str) -> AsyncIterator[tuple[Wire, str]]:
    """A Wire, and the URL of a database by way of it."""
    wire = Wire()
    with tempfile.TemporaryDirectory(prefix="entrepot-wire-") as folder:
        listening = await asyncio.start_unix_server(
            lambda reader, writer: wire.carry(reader, writer, f"{server.folder}/.s.PGSQL.5432"),
            f"{folder}/.s.PGSQL.5432",
        )
        try:
            yield wire, url.replace(str(server.folder), folder)
        finally:
            listening.close()
