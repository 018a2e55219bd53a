"""Listening sockets that a supervisor holds (sd_listen_fds(3)): while we are restarted, connections wait in them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

FIRST = 3  # SD_LISTEN_FDS_START


def inherited(environ: Mapping[str, str]) -> list[socket.socket]:
    """Those that were handed to this very process, once; not to its parent, whose environment it may have."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    found = [socket.socket(fileno=FIRST + at) for at in range(int(count) if count.isdecimal() else 0)]
    for each in found:
        os.set_inheritable(each.fileno(), False)
    return found


def matching(given: Sequence[socket.socket], host: str, port: int) -> socket.socket | None:
    """The one that listens there, as a socket of our own."""
    for each in given:
        if each.family != socket.AF_UNIX and each.getsockname()[:2] == (host, port):
            return each.dup()
    return None
