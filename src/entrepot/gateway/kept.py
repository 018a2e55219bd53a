"""The last good publication on disk, as it came: the whole, sealed, and behind it each sealed change since.

What a gateway starts from with the control plane dead. Frames are each behind their length; a torn last one is as if
it had never been written, since the control plane has it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from entrepot.gateway.enrolment import write_private

MOST_CHANGES: Final = 256
LEAST_BYTES: Final = 1 << 20
_LENGTH: Final = 4


class Kept:
    """One file, for one process. Its methods block and raise OSError; they may run beside the loop, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sizes: list[int] = []
        """Of each frame in the file, its length included."""

    @property
    def grown(self) -> bool:
        """There is no whole, or the changes outweigh it: it is time for a new one."""
        if not self._sizes:
            return True
        whole, *changes = self._sizes
        return len(changes) > MOST_CHANGES or sum(changes) > max(whole, LEAST_BYTES)

    def read(self) -> list[bytes]:
        """The frames, the whole first; none when there is no file."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            data = b""
        frames: list[bytes] = []
        at = 0
        while (end := at + _LENGTH + int.from_bytes(data[at : at + _LENGTH], "big")) <= len(
            data
        ) and end > at + _LENGTH:
            frames.append(data[at + _LENGTH : end])
            at = end
        self._sizes = [_LENGTH + len(frame) for frame in frames]
        return frames

    def keep(self, count: int) -> None:
        """Forget all but the first `count` frames: the next `add` writes over what follows."""
        del self._sizes[count:]

    def replace(self, whole: bytes) -> None:
        """The file is, durably, either as it was or this one frame."""
        write_private(self.path, _framed(whole))
        self._sizes = [_LENGTH + len(whole)]

    def add(self, change: bytes) -> None:
        """Behind what stands there. A crash leaves it whole or not at all, by the length."""
        if not self._sizes:
            raise OSError(f"`{self.path}` has no whole that a change could follow")
        frame, at = _framed(change), sum(self._sizes)
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, at)
            if os.pwrite(fd, frame, at) != len(frame):
                raise OSError(f"`{self.path}` could not be written whole")
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._sizes.append(len(frame))


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH, "big") + data
