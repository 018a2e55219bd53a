"""The operations on files that durability rests on, in one place so that tests can make each of them fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread

Work = Callable[[], None]


class Files:
    """The real ones. Every method raises OSError; what it promises holds only when it returns."""

    def __init__(self) -> None:
        self._second: Second | None = None

    def open(self, path: Path, *, new: bool = False) -> int:
        """For reading and writing; `new` makes a file that must not exist yet, readable by its owner and group."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0)
        return os.open(path, flags, 0o640)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """All of `data` at `offset`. Not durable before `sync`."""
        done = os.pwrite(fd, data, offset)
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)

    def write_through(self, fd: int, data: bytes, offset: int) -> None:
        """All of `data` at `offset`, durable on return. After a failure nothing is known of what stands there."""
        # One system call instead of two: the thread that waits gives up the interpreter once, not twice.
        done = os.pwritev(fd, [data], offset, os.RWF_DSYNC)
        if done < len(data):
            self.write(fd, data[done:], offset + done)
            self.sync(fd)

    def sync(self, fd: int) -> None:
        """What was written is on the disk, as far as the disk tells the truth. After a failure nothing is known."""
        os.fdatasync(fd)

    def cut(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def together(self, one: Work, other: Work) -> None:
        """Both at once, in no order; returns or raises when both have ended. For one caller at a time."""
        if self._second is None:
            self._second = Second()
        self._second.together(one, other)

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


class Second:
    """A thread beside its caller's, for a second file that is to be durable at the same time."""

    def __init__(self) -> None:
        self._begun, self._ended = Lock(), Lock()
        self._begun.acquire()
        self._ended.acquire()
        self._work: Work | None = None
        self._failure: BaseException | None = None
        Thread(target=self._run, name="ledger-second", daemon=True).start()

    def together(self, one: Work, other: Work) -> None:
        self._work, self._failure = other, None
        self._begun.release()
        try:
            one()
        finally:
            self._ended.acquire()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            self._begun.acquire()
            try:
                if self._work is not None:
                    self._work()
            except BaseException as failure:  # noqa: BLE001 - it is the caller's, who raises it
                self._failure = failure
            self._ended.release()
