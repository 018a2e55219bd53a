"""Log lines on stderr: one JSON object a line, fields from `extra={"fields": {…}}`. Never content or secrets."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

PATIENT_MS = 50
"""So long whoever reads the lines may keep the process waiting; once, not for each line."""
PIECE = 4_096
"""What a pipe takes at one go where it takes anything (POSIX.1, PIPE_BUF on Linux)."""


class JsonLines(logging.Formatter):
    """Renders a record as one line of JSON; a traceback becomes one escaped string."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class Lines(logging.Handler):
    """Writes to `fd` what is taken there. Where nobody takes anything, lines are dropped, and the process goes on."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._dropped = 0
        self._torn = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode()
        except Exception:  # noqa: BLE001 - as every handler does: a line that cannot be made is no reason to fail
            self.handleError(record)
            return
        if self._dropped and self._takes():
            number, self._dropped = self._dropped, 0
            what = "lines were dropped, since nobody took them"
            told = logging.makeLogRecord(
                {"name": __name__, "levelname": "WARNING", "msg": what, "fields": {"lines": number}}
            )
            line = f"{self.format(told)}\n".encode() + line
        self._write(b"\n" + line if self._torn else line)

    def _write(self, line: bytes) -> None:
        for at in range(0, len(line), PIECE):
            if not self._takes():
                self._dropped += 1
                self._torn = self._torn or at > 0
                return
            with contextlib.suppress(OSError):  # whoever read it has gone
                os.write(self._fd, line[at : at + PIECE])
        self._torn = False

    def _takes(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0 if self._dropped else PATIENT_MS))


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send this process's log to stderr. Called once, where a process begins."""
    try:
        handler: logging.Handler = Lines(sys.stderr.fileno())
    except (OSError, ValueError):  # it is no file
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
