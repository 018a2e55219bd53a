"""Files made durable by the kernel beside the thread that asks: Linux's asynchronous I/O, io_submit(2) with FDSYNC.

The thread goes on meanwhile, and no other one of ours has to be woken and given the interpreter.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import platform
import select
from collections.abc import Callable, Sequence

MOST = 8
"""Files at a time."""
TRIAL_S = 1.0
FDSYNC = 3
RESFD = 1
# io_setup, io_destroy, io_submit, io_getevents
CALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}


class _Request(ctypes.Structure):
    """struct iocb of linux/aio_abi.h, little-endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """struct io_event."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("obj", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class Flushes:
    """One set of files at a time: `begin`, then `ended` whenever `fileno()` is readable, until it says so.

    `watch` has a loop call somebody then.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        """Raises OSError where the kernel, or whoever confines this process, does not offer it."""
        calls = CALLS.get(platform.machine()) if platform.system() == "Linux" else None
        if calls is None:
            raise OSError(f"asynchronous flushes are not known on {platform.system()} on {platform.machine()}")
        setup, self._destroy, self._submit, self._get_events = calls
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        context = ctypes.c_ulong(0)
        if self._call(setup, MOST, ctypes.byref(context)) < 0:
            raise _failure(ctypes.get_errno())
        self._context = context
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._requests = [_Request(opcode=FDSYNC, flags=RESFD, resfd=self._event_fd) for _ in range(MOST)]
        self._pointers = (ctypes.c_void_p * MOST)(*map(ctypes.addressof, self._requests))
        self._events = (_Event * MOST)()
        self._under_way = 0
        self._failure: OSError | None = None
        try:
            self._try_out()
        except OSError:
            self.close()
            raise

    def _try_out(self) -> None:
        """Some offer the calls and not this use of them."""
        fd = os.memfd_create("entrepot-flush")
        try:
            self.begin([fd])
            if not (select.select([self], [], [], TRIAL_S)[0] and self.ended()):
                raise _failure(errno.ETIMEDOUT)
        finally:
            os.close(fd)

    def watch(self, loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
        loop.add_reader(self.fileno(), call)
        self._loop = loop

    def fileno(self) -> int:
        return self._event_fd

    def begin(self, fds: Sequence[int]) -> None:
        """Make durable what was written to these. Raises OSError, and then nothing is under way."""
        for request, fd in zip(self._requests, fds, strict=False):
            request.fd = fd
        self._failure = None
        begun = self._call(self._submit, self._context, len(fds), self._pointers)
        if begun < 0:
            raise _failure(ctypes.get_errno())
        self._under_way = begun
        if begun < len(fds):
            self._failure = OSError("the kernel took only some of the files to flush")

    def ended(self) -> bool:
        """Whether all have. Raises the failure of one, once all have ended; what is on the disk is then not known."""
        try:
            os.eventfd_read(self._event_fd)
        except BlockingIOError:
            return False
        if not self._under_way:
            return False  # the sign of one whose end was seen with that of another before
        count = self._call(self._get_events, self._context, 0, MOST, self._events, None)
        for event in self._events[: max(count, 0)]:
            self._under_way -= 1
            if event.result < 0:
                self._failure = _failure(-event.result)
        if self._under_way:
            return False
        if self._failure is not None:
            raise self._failure
        return True

    def close(self) -> None:
        """Waits for what is under way."""
        if self._loop is not None:
            self._loop.remove_reader(self._event_fd)
        self._call(self._destroy, self._context)
        os.close(self._event_fd)


def _failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))
