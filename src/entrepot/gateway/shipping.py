"""Ships this gateway's ledger to a control plane: signed checkpoints, and the entries up to them, no personal data.

Keeps nothing of its own: the control plane says what it has, so a restart of either goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from entrepot.errors import Code, Error
from entrepot.gateway.enrolment import Enrolled, told
from entrepot.gateway.remote import Answer, Remote
from entrepot.http1.client import Fault
from entrepot.ledger.read import folders_of
from entrepot.ledger.verify import (
    CHECKPOINT,
    LIST,
    Checkpoint,
    Unproved,
    folder_name,
    read_checkpoint,
    read_header,
    read_key,
    segment_name,
    walk,
)

POLL_S: Final = 1.0
UNWANTED_S: Final = 30.0
AGAIN_S: Final = 10.0
"""How old what it said of itself may be: it may have been restored from a backup."""
LAST_S: Final = 3.0
RETRY_LAST_S: Final = 30.0
PIECE: Final = 1 << 20
COMPARED: Final = 1 << 16
_HEADER: Final = 2048

log = logging.getLogger(__name__)


class _Held(msgspec.Struct, frozen=True):
    """What a control plane has of a log under a checkpoint."""

    size: int
    root: str


class _State(msgspec.Struct, frozen=True):
    """What a control plane wants and has. One that does not know of shipping wants nothing."""

    ship: bool = False
    keys: tuple[str, ...] = ()
    logs: dict[str, _Held] = {}


class _Position(msgspec.Struct, frozen=True):
    """Where its copy of a log ends: entries, and the first entry and length in bytes of the last segment."""

    entries: int
    first: int
    offset: int


class Shipper:
    """To one control plane, beside whatever else the gateway does; `run` never ends by itself.

    `problem` says why what is signed here is not shipped; `behind` is how many signed entries it does not have yet.
    """

    def __init__(self, enrolled: Enrolled, data: Path, url: str) -> None:
        """Raises Error for what is not the URL of a control plane."""
        self.problem: str | None = None
        self.behind = 0
        self._data = data
        self._remote = Remote.pinned(url, enrolled.ca)
        self._fields = [("authorization", f"Bearer {enrolled.secret}"), ("x-entrepot-gateway", enrolled.gateway)]
        self._state: _State | None = None
        self._asked_s = 0.0
        self._done: dict[str, Checkpoint] = {}
        self._listed = b""
        self._shown: set[str] = set()

    def believe(self, ca: str) -> None:
        """The control plane's authorities from here on. Raises Error if there is none in it."""
        self._remote.believe(ca)

    async def run(self) -> None:
        """Until it is cancelled."""
        failures = 0
        try:
            while True:
                try:
                    pause_s = await self.ship()
                except (Error, Fault, TimeoutError, OSError, Unproved, msgspec.DecodeError) as error:
                    self._fail(error)
                    failures += 1
                    pause_s = min(POLL_S * (1 << min(failures, 8)), RETRY_LAST_S) * (
                        0.5 + secrets.randbelow(500) / 1_000
                    )
                except Exception:  # an edge: calls go on whatever became of this
                    self._fail(Error(Code.INTERNAL, "shipping failed; the log says more"))
                    log.exception("the ledger could not be shipped")
                    pause_s = RETRY_LAST_S
                else:
                    failures = 0
                    self._heal()
                await asyncio.sleep(pause_s)
        finally:
            await self._remote.close()

    async def last(self) -> None:
        """What was signed at the end, if it can be had in a moment; else the next start does it."""
        with contextlib.suppress(Error, Fault, TimeoutError, OSError, Unproved, msgspec.DecodeError):
            async with asyncio.timeout(LAST_S):
                await self.ship()
        await self._remote.close()

    async def ship(self) -> float:
        """All that is signed now. How long to wait for more. Raises Error, Fault, OSError, Unproved."""
        state = self._state
        if state is None or time.monotonic() > self._asked_s + AGAIN_S:
            self._done.clear()
            self._listed, self._shown = b"", set()
            state = self._state = await self._asked()
            self._asked_s = time.monotonic()
            self._shown.update(state.keys)
        if not state.ship:
            self.behind = 0
            return UNWANTED_S
        note, folders = await asyncio.to_thread(self._logs)
        signed = await asyncio.to_thread(lambda: [(folder, *found) for folder in folders if (found := _signed(folder))])
        self.behind = sum(self._lacks(folder.name, each) for folder, _, each in signed)
        await self._show_keys()
        for folder, text, each in signed:
            await self._agree(folder.name, text, each)
            if lacking := self._lacks(folder.name, each):
                await self._one(folder, text, each)
                self.behind -= lacking
            self._done[folder.name] = each
        if note and note != self._listed:
            self._expect(await self._remote.put("/entrepot/logs/list", self._fields, note))
            self._listed = note
        return POLL_S

    async def _asked(self) -> _State:
        answer = await self._remote.get("/entrepot/logs", self._fields)
        if answer.status == 404:
            return _State()
        return msgspec.json.decode(self._expect(answer), type=_State)

    def _logs(self) -> tuple[bytes, list[Path]]:
        """The signed list, and the folders that it names. It is read first, so that those are there. Blocks."""
        ledger = self._data / "ledger"
        try:
            note = (ledger / LIST).read_bytes()
        except FileNotFoundError:
            return b"", []
        return note, folders_of(ledger)

    async def _show_keys(self) -> None:
        for path in sorted((self._data / "keys").glob("*.vkey")):
            key = str(read_key(path.read_text(encoding="utf-8")))
            if key not in self._shown:
                body = msgspec.json.encode({"key": key})
                fields = [*self._fields, ("content-type", "application/json")]
                self._expect(await self._remote.put("/entrepot/logs/keys", fields, body))
                self._shown.add(key)

    def _lacks(self, name: str, signed: Checkpoint) -> int:
        """How many of the signed entries are not there."""
        done = self._done.get(name)
        if done is not None:
            return signed.size - done.size
        held = self._state.logs.get(name) if self._state is not None else None
        return signed.size - held.size if held is not None else signed.size

    async def _agree(self, name: str, text: bytes, signed: Checkpoint) -> None:
        """Raises Error where the control plane holds more than is signed here, or otherwise. It is told, too."""
        held = self._state.logs.get(name) if self._state is not None and name not in self._done else None
        if held is not None and (
            held.size > signed.size or (held.size == signed.size and held.root != signed.root.hex())
        ):
            self._expect(await self._remote.put(f"/entrepot/logs/{name}/checkpoint", self._fields, text))

    async def _one(self, folder: Path, text: bytes, signed: Checkpoint) -> None:
        at = self._position(await self._remote.get(f"/entrepot/logs/{folder.name}", self._fields))
        if folder.name not in self._done:
            await self._compare(folder, at)
        while at.entries < signed.size:
            first, offset = at.first, at.offset
            piece = await asyncio.to_thread(_piece, folder, first, offset, signed.size - at.entries)
            if not piece and (folder / segment_name(at.entries)).exists() and at.entries != first:
                first, offset = at.entries, 0
                piece = await asyncio.to_thread(_piece, folder, first, offset, signed.size - at.entries)
            if not piece:
                raise Unproved(f"entry {at.entries} of the log `{signed.origin}` is damaged or missing")
            target = f"/entrepot/logs/{folder.name}/{first:08d}?offset={offset}"
            at = self._position(await self._remote.put(target, self._fields, piece))
        self._expect(await self._remote.put(f"/entrepot/logs/{folder.name}/checkpoint", self._fields, text))

    async def _compare(self, folder: Path, at: _Position) -> None:
        """The end of its copy with what stands here: other bytes are refused before anything is added to them."""
        start = max(0, at.offset - COMPARED)
        ours = await asyncio.to_thread(_bytes, folder / segment_name(at.first), start, at.offset)
        if ours:
            target = f"/entrepot/logs/{folder.name}/{at.first:08d}?offset={start}"
            self._expect(await self._remote.put(target, self._fields, ours))

    def _position(self, answer: Answer) -> _Position:
        return msgspec.json.decode(self._expect(answer), type=_Position)

    def _expect(self, answer: Answer) -> bytes:
        if answer.status != 200:
            self._refused(answer)
        return answer.body

    def _refused(self, answer: Answer) -> NoReturn:
        raise Error(Code.NOT_READY, f"the control plane at {self._remote.url} refuses this ledger: {told(answer)}")

    def _fail(self, error: Exception) -> None:
        self._state = None  # whatever it was, begin with what the control plane has
        problem = str(error)
        if isinstance(error, Fault | TimeoutError):
            problem = f"the control plane at {self._remote.url} cannot be reached: {error}"
        if problem != self.problem:
            self.problem = problem
            log.error("the ledger is not shipped", extra={"fields": {"to": self._remote.url, "problem": problem}})

    def _heal(self) -> None:
        if self.problem is not None:
            self.problem = None
            log.info("the ledger is shipped again", extra={"fields": {"to": self._remote.url}})


def _signed(folder: Path) -> tuple[bytes, Checkpoint] | None:
    """The last checkpoint, as it stands and read; what it covers is in the files by then. Blocks."""
    try:
        text = (folder / CHECKPOINT).read_bytes()
    except FileNotFoundError:
        return None
    signed = read_checkpoint(text.decode("utf-8", "replace").partition("\n\n")[0] + "\n")
    if folder_name(signed.origin) != folder.name:
        raise Unproved(f"the checkpoint of `{folder.name}` is that of the log `{signed.origin}`")
    return text, signed


def _bytes(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _piece(folder: Path, first: int, offset: int, most: int) -> bytes:
    """At most so many entries of a segment from a byte on, in whole frames. Blocks."""
    size = PIECE
    with (folder / segment_name(first)).open("rb") as file:
        while True:
            file.seek(offset)
            data = file.read(size)
            head = _header_end(data) if offset == 0 else 0
            spans: list[Any] = walk(data, head, most)[0][:most]  # checksums are the receiver's
            if spans or len(data) < size:
                return data[: spans[-1][1]] if spans else b""
            size *= 4


def _header_end(data: bytes) -> int:
    try:
        return read_header(data[:_HEADER])[2]
    except ValueError:
        raise Unproved("the header of a segment is damaged") from None
