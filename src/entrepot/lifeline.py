"""A child process that ends with its parent, however that ended: on Linux the kernel sees to it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def ends_with_parent() -> Callable[[], None]:
    """For `preexec_fn`: the child gets SIGTERM when this process is gone. Call it on the thread that starts the child.

    The kernel's parent is that thread, not its process. Elsewhere than on Linux nothing is done.
    """
    parent = os.getpid()

    def bind() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_DEATH_SIGNAL, signal.SIGTERM)
            if os.getppid() != parent:  # it died before we asked, so nobody will tell
                os._exit(1)

    return bind
