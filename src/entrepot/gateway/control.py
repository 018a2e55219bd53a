"""A gateway's source that is a control plane: a long poll, verified; the last good publication on disk before all.

Nothing of a control plane's failure reaches the calls: what was published last stays in force, also after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import msgspec

from entrepot.errors import Code, Error
from entrepot.gateway.enrolment import AFRESH, SNAPSHOT, Enrolled, keep_trust, sealing_key, told
from entrepot.gateway.kept import Kept
from entrepot.gateway.remote import WAIT_S, Answer, Remote
from entrepot.http1.client import Fault
from entrepot.resources.problems import WorldInvalid
from entrepot.snapshot import Delta, Published, Revision, applied, decode
from entrepot.snapshot.sealed import unseal
from entrepot.snapshot.trust import Trust, fingerprint

log = logging.getLogger(__name__)

FIRST_S: Final = 10.0
"""How long the very first publication is waited for."""
FRESH_S: Final = 3.0
"""How long a start waits for what is newer than what it has on disk."""
CLOSE_S: Final = 2.0
RETRY_FIRST_S: Final = 0.25
RETRY_LAST_S: Final = 10.0
LEAST_S: Final = 1.0
"""Between two questions that had no news for an answer."""


class _Fetched(NamedTuple):
    message: Published | Delta
    sealed: bytes


class ControlSource:
    """`gateway.source.Source` over HTTPS. For one event loop; `close` when done.

    `problem` says why the control plane cannot be followed now. What it published is refused unless it is sealed to
    this gateway, signed by the control plane that it enrolled with, and not older than what it has.
    """

    def __init__(
        self,
        enrolled: Enrolled,
        data: Path,
        urls: Sequence[str] = (),
        *,
        fresh: bool = True,
        believing: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`urls` are where it is found now, if not where it was: control planes over one database, asked in turn.

        Not `fresh`: begin with what is on disk without asking first. `believing` is told of other authorities, when the
        control plane has some. Raises Error for a sealing key that is missing.
        """
        self.problem: str | None = None
        self._enrolled = enrolled
        self._data = data
        self._believing = believing
        self._private = sealing_key(data)
        self._remotes = [Remote.pinned(url, enrolled.ca) for url in urls or (enrolled.url,)]
        self._kept = Kept(data / SNAPSHOT)
        self._offered: Revision | None = None
        """The newest that was handed on."""
        self._runs: Revision | None = None
        self._ready = False
        self._fresh = fresh
        self.passed_over = False
        """What is on disk was not what `first` began with: there is something else to start from."""
        self._look = False
        self._told = asyncio.Event()
        self._small = False
        """What was handed on last was a change, not a whole."""
        self._taken: list[_Fetched] = []
        """Handed on, and not on disk yet."""
        self._keeping: asyncio.Task[None] | None = None
        self._signed_before = False
        """What is on disk is signed by a key that the control plane has given up."""

    # What the parent calls

    async def first(self) -> Published:
        """What is newest: the control plane's if it answers soon, else what is on disk. Raises Error for neither."""
        start = await asyncio.to_thread(self._from_disk)
        if start is None:
            return await self._very_first()
        self._offered = start.revision
        if not self._fresh:
            return start
        try:
            async with asyncio.timeout(FRESH_S):
                fetched = await self._fetch(start.revision, wait_s=0)
        except (Error, Fault, WorldInvalid, TimeoutError) as error:
            self._fail(error)
            fields = {"revision": str(start.revision), "problem": self.problem}
            log.warning("starting from the last good publication on disk", extra={"fields": fields})
            return start
        if fetched is None:
            return start
        self._offer(fetched)
        self.passed_over = True
        message = fetched.message
        return message if isinstance(message, Published) else applied(start, message)

    async def changes(self) -> AsyncIterator[Published | Delta]:
        """Each change once; one that could not be taken over is offered again, with what came since, now and then."""
        failures = 0
        while True:
            behind = self._runs not in {None, self._offered}
            try:
                fetched = await (self._again() if self._look else self._ask(behind))
            except (Error, Fault, WorldInvalid, TimeoutError) as error:
                self._fail(error)
                failures += 1
                await asyncio.sleep(_pause_s(failures))
                continue
            if not behind:
                failures = 0
            elif fetched is not None and fetched.message.revision == self._offered:
                failures += 1  # the same that could not be taken over
                await asyncio.sleep(_pause_s(failures))
            if fetched is not None:
                self._offer(fetched)
                yield fetched.message

    def look(self) -> None:
        """Hand on the whole anew, from the disk if the control plane is away: files that it names may have changed."""
        self._look = True
        self._told.set()

    def running(self, revision: Revision, ready: bool) -> None:
        """The control plane hears of it at once; what runs is kept on disk."""
        if (revision, ready) == (self._runs, self._ready):
            return
        self._runs, self._ready = revision, ready
        self._told.set()
        self._keep_soon()

    async def close(self) -> None:
        """What is being written to disk is given a moment."""
        if self._keeping is not None:
            await asyncio.wait({self._keeping}, timeout=CLOSE_S)
            self._keeping.cancel()
        for remote in self._remotes:
            await remote.close()

    # The control plane

    @property
    def _remote(self) -> Remote:
        """The one that is asked now: whichever answered last."""
        return self._remotes[0]

    async def _very_first(self) -> Published:
        """Raises Error when it cannot be had in time; what is refused is not asked for again."""
        failures = 0
        try:
            async with asyncio.timeout(FIRST_S):
                while True:
                    try:
                        fetched = await self._fetch(None, wait_s=0)
                    except (Error, Fault, WorldInvalid) as error:
                        if isinstance(error, Error) and error.code is not Code.NOT_READY:
                            raise
                        self._fail(error)
                        failures += 1
                        await asyncio.sleep(_pause_s(failures))
                    else:
                        break
        except TimeoutError:
            why = self.problem or f"the control plane at {self._remote.url} does not answer"
            raise Error(Code.NOT_READY, f"{why}, and there is no publication on disk to start from") from None
        assert fetched is not None
        assert isinstance(fetched.message, Published)
        self._offer(fetched)
        return fetched.message

    async def _ask(self, behind: bool) -> _Fetched | None:
        """What is newer than what runs; None when nothing is, or when the control plane is to hear anew what runs."""
        self._told.clear()
        # A change that could not be taken over may do as a whole.
        runs = None if behind and self._small else self._runs or self._offered
        loop = asyncio.get_running_loop()
        until = loop.time() + LEAST_S
        asking, telling = loop.create_task(self._fetch(runs, WAIT_S)), loop.create_task(self._told.wait())
        try:
            await asyncio.wait({asking, telling}, return_when=asyncio.FIRST_COMPLETED)
            fetched = asking.result() if asking.done() else None
            if fetched is None:
                await asyncio.wait({telling}, timeout=max(until - loop.time(), 0.0))
            return fetched
        finally:
            asking.cancel()
            telling.cancel()
            await asyncio.gather(asking, telling, return_exceptions=True)

    async def _again(self) -> _Fetched | None:
        """The whole as it is, newer or not. The file of the last good one is sealed as well."""
        self._look = False
        try:
            return await self._fetch(None, wait_s=0)
        except (Error, Fault, WorldInvalid) as error:
            self._fail(error)
        if self._keeping is not None:
            await self._keeping
        held = await asyncio.to_thread(self._from_disk)
        return _Fetched(held, b"") if held is not None and held.revision == self._runs else None

    async def _fetch(self, runs: Revision | None, wait_s: int) -> _Fetched | None:
        """What is newer than `runs`, or the whole for None. Raises Fault, Error, WorldInvalid for what is no world."""
        fields = [*self._who(), ("x-entrepot-ready", "true" if self._ready else "false")]
        if runs is not None:
            fields.append(("if-none-match", f'"{runs}"'))
        answer = await self._remote.get(f"/entrepot/snapshot?wait={wait_s}", fields)
        if answer.status == 304 and runs is not None:
            self._heal()
            await self._take_trust(answer)
            return None
        if answer.status != 200:
            raise self._refused(answer)
        fetched = await asyncio.to_thread(self._opened, answer.body, self._offered)
        message = fetched.message
        if isinstance(message, Delta) and message.after != runs:
            log.info("a change does not fit what runs; the whole is asked for", extra={"fields": {"runs": str(runs)}})
            return await self._fetch(None, wait_s) if runs is not None else _no_whole()
        self._heal()
        await self._take_trust(answer)
        return fetched

    def _who(self) -> list[tuple[str, str]]:
        known = self._enrolled
        return [
            ("authorization", f"Bearer {known.secret}"),
            ("x-entrepot-gateway", known.gateway),
            ("x-entrepot-believes", fingerprint(known.verifier)),
            ("x-entrepot-trust", known.trust.digest()),
        ]

    async def _take_trust(self, answer: Answer) -> None:
        """Believe what the control plane says under a key that is believed now. What fails is tried again."""
        if answer.headers.get("x-entrepot-trust", self._enrolled.trust.digest()) == self._enrolled.trust.digest():
            return
        try:
            told_now = await self._remote.get("/entrepot/trust", self._who())
            if told_now.status != 200:
                raise self._refused(told_now)
            known, self._enrolled = self._enrolled, await asyncio.to_thread(self._trusted, told_now.body)
        except (Error, Fault, OSError) as error:
            log.warning("new keys of the control plane are not believed", extra={"fields": {"problem": str(error)}})
            return
        for believe in (*(remote.believe for remote in self._remotes), self._believing):
            believe(self._enrolled.ca)
        if self._enrolled.verifier != known.verifier:
            self._signed_before = True
            self._keep_soon()
        log.info("the control plane has other keys now", extra={"fields": {"trust": self._enrolled.trust.digest()}})

    def _trusted(self, data: bytes) -> Enrolled:
        known = self._enrolled
        kind, _, plain = unseal(data, private=self._private, verifier=known.verifier, gateway=known.gateway)
        try:
            trust = msgspec.json.decode(plain, type=Trust) if kind == "trust" else None
        except msgspec.DecodeError:
            trust = None
        if trust is None:
            raise Error(
                Code.UNAUTHENTICATED, "what the control plane wants to be believed by is not what its seal says"
            )
        return keep_trust(self._data, known, trust)

    def _opened(self, data: bytes, held: Revision | None, verifier: bytes = b"") -> _Fetched:
        kind, revision, plain = unseal(
            data,
            private=self._private,
            verifier=verifier or self._enrolled.verifier,
            gateway=self._enrolled.gateway,
            held=held,
        )
        if kind == "trust":
            raise Error(Code.UNAUTHENTICATED, "what the control plane published is not what its seal says")
        message = decode(plain)
        if message.revision != revision or isinstance(message, Published) is not (kind == "published"):
            raise Error(Code.UNAUTHENTICATED, "what the control plane published is not what its seal says")
        return _Fetched(message, data)

    def _refused(self, answer: Answer) -> Error:
        if answer.status in {401, 403}:
            what = f"the control plane no longer knows the gateway `{self._enrolled.gateway}`; {AFRESH}"
            return Error(Code.UNAUTHENTICATED, what)
        return Error(Code.NOT_READY, f"the control plane at {self._remote.url} answers: {told(answer)}")

    def _offer(self, fetched: _Fetched) -> None:
        after = fetched.message.after if isinstance(fetched.message, Delta) else None
        self._taken = [each for each in self._taken if after is not None and each.message.revision <= after]
        if fetched.sealed:
            self._taken.append(fetched)
        self._offered, self._small = fetched.message.revision, after is not None

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Fault):
            problem = f"the control plane at {self._remote.url} cannot be reached: {error}"
        elif isinstance(error, TimeoutError):
            problem = f"the control plane at {self._remote.url} does not answer in time"
        else:
            problem = str(error)
        self._remotes.append(self._remotes.pop(0))
        if problem != self.problem:
            self.problem = problem
            log.warning("the control plane cannot be followed", extra={"fields": {"problem": problem}})

    def _heal(self) -> None:
        if self.problem is not None:
            self.problem = None
            log.info("the control plane is followed again")

    # The disk

    def _from_disk(self) -> Published | None:
        """The last good publication; None when there is none or what is there is not to be believed. Blocks."""
        held: Published | None = None
        good = 0
        try:
            for frame in self._kept.read():
                message = self._from_frame(frame, held.revision if held else None)
                held = message if isinstance(message, Published) else applied(held or _no_whole(), message)
                good += 1
        except (Error, WorldInvalid, OSError) as error:
            fields = {"path": str(self._kept.path), "problem": str(error), "used": good}
            log.error("the publication on disk is refused from here on", extra={"fields": fields})
        self._kept.keep(good)
        return held

    def _from_frame(self, frame: bytes, held: Revision | None) -> Published | Delta:
        """It may be from before the control plane had other keys."""
        try:
            return self._opened(frame, held).message
        except Error:
            if not self._enrolled.before:
                raise
            return self._opened(frame, held, self._enrolled.before).message

    def _keep_soon(self) -> None:
        if (self._taken or self._signed_before) and (self._keeping is None or self._keeping.done()):
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        """What runs is good: put it on disk. A failure costs no more than a later start's speed."""
        await self._write_good()
        if self._kept.grown or self._signed_before:
            try:
                fetched = await self._fetch(None, wait_s=0)
                if fetched is not None and fetched.message.revision == self._runs:
                    await asyncio.to_thread(self._kept.replace, fetched.sealed)
                    self._signed_before = False
            except (Error, Fault, WorldInvalid, OSError) as error:
                log.info("no whole to keep on disk for now", extra={"fields": {"problem": str(error)}})
            await self._write_good()

    async def _write_good(self) -> None:
        while good := [each for each in self._taken if self._runs is not None and each.message.revision <= self._runs]:
            self._taken = [each for each in self._taken if each not in good]
            try:
                await asyncio.to_thread(self._write, good)
            except OSError as error:
                log.error("the publication could not be kept on disk", extra={"fields": {"problem": str(error)}})
                self._kept.keep(0)

    def _write(self, good: list[_Fetched]) -> None:
        for fetched in good:
            if isinstance(fetched.message, Published):
                self._kept.replace(fetched.sealed)
            else:
                self._kept.add(fetched.sealed)


def _no_whole() -> NoReturn:
    raise Error(Code.NOT_READY, "there is a change where the whole was to be")


def _pause_s(failures: int) -> float:
    """Longer each time, and not in step with other gateways."""
    longest = min(RETRY_FIRST_S * (1 << min(failures - 1, 10)), RETRY_LAST_S)
    return longest * (0.5 + secrets.randbelow(1_000) / 2_000)
