"""The operations on files that durability rests on, in one place so that tests can make each of them fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

from entrepot.ledger.flushes import Flushes

Work = Callable[[], None]


class Files:
    """The real ones. Every method raises OSError; what it promises holds only when it returns."""

    def open(self, path: Path, *, new: bool = False) -> int:
        """For reading and writing; `new` makes a file that must not exist yet, readable by its owner and group."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0)
        return os.open(path, flags, 0o640)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """All of `data` at `offset`. Not durable before `sync`."""
        done = os.pwrite(fd, data, offset)
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)

    def sync(self, fd: int) -> None:
        """What was written is on the disk, as far as the disk tells the truth. After a failure nothing is known."""
        os.fdatasync(fd)

    def sync_all(self, fds: Sequence[int]) -> None:
        """Each of them, in no order that matters."""
        for fd in fds:
            self.sync(fd)

    def flushes(self) -> Flushes | None:
        """To have files synced beside what goes on; None where the system does not offer it."""
        try:
            return Flushes()
        except OSError:
            return None

    def cut(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def aside(self, work: Work) -> None:
        """Have it done beside what goes on; it raises nothing."""
        Thread(target=work, name="ledger-room", daemon=True).start()

    def close(self, fd: int) -> None:
        os.close(fd)

    def replace(self, path: Path, data: bytes) -> None:
        """The file is, durably, either as it was or `data`, whatever happens meanwhile."""
        beside = path.with_name(f".{path.name}.{os.getpid()}.new")
        beside.unlink(missing_ok=True)
        fd = self.open(beside, new=True)
        try:
            self.write(fd, data, 0)
            self.sync(fd)
        finally:
            self.close(fd)
        self.rename(beside, path)

    def rename(self, path: Path, to: Path) -> None:
        """Durable on return."""
        path.rename(to)
        self.sync_folder(to.parent)

    def sync_folder(self, folder: Path) -> None:
        """The names in the folder are durable."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
