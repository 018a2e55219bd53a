"""Carries out a plan: stage after stage, several requests at a time, and tells what came of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from entrepot.cli.remote.connection import ACCESS, Connection, Refused
from entrepot.cli.remote.plan import Plan, Request, Step
from entrepot.cli.remote.widening import GROUNDS, Proposal

AT_ONCE: Final = 8
POLICY_SAYS_NO: Final = "CannotDeployDueToLocalRegulations"
STAGE_REFUSED: Final = 20  # a stage is given up after so many refusals


class Waiting(msgspec.Struct, frozen=True):
    """A proposal that another person has to approve."""

    name: str
    about: str
    told: str


class Failure(msgspec.Struct, frozen=True):
    verb: str
    kind: str
    name: str
    code: str
    lines: tuple[str, ...]

    @property
    def by_policy(self) -> bool:
        return self.code == POLICY_SAYS_NO


class Outcome(msgspec.Struct, frozen=True):
    """`left`: steps not begun, as a stage before them failed, or that wait for an approval of the same resource."""

    done: int
    waiting: tuple[Waiting, ...]
    failures: tuple[Failure, ...]
    left: int

    @property
    def status(self) -> int:
        """0: as declared; 1: something failed; 3: something waits for a second person, or the policy forbids it."""
        if any(not each.by_policy for each in self.failures):
            return 1
        return 3 if self.waiting or self.failures or self.left else 0


class _Done(msgspec.Struct, frozen=True):
    waiting: tuple[Waiting, ...] = ()
    failure: Failure | None = None
    left: int = 0


def open_proposals(connection: Connection) -> list[Mapping[str, Any]]:
    """Those that nobody has decided yet."""
    listed = connection.all(f"{ACCESS}/proposals")
    return [each for each in listed if each["properties"]["state"] == "proposed"]


def find_proposal(proposal: Proposal, listed: Iterable[Mapping[str, Any]]) -> str | None:
    """The name of the one that asks for the same."""
    for each in listed:
        there = each["properties"]
        if there["kind"] != proposal.kind:
            continue
        if proposal.kind == "policyRelease":
            same = there.get("release") == proposal.told
        else:
            same = there["subject"].lower() == proposal.subject.lower() and _core(there["change"]) == _core(
                proposal.change
            )
        if same:
            return str(each["name"])
    return None


def _core(change: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in change.items() if key != "grounds"}


class Carrying:
    """`break_glass` is the reason for which the caller approves what they propose themselves; None: nobody does."""

    def __init__(
        self,
        connection: Connection,
        proposed: list[Mapping[str, Any]],
        break_glass: str | None,
        advance: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._proposed = proposed
        self._break_glass = break_glass
        self._advance = advance

    def carry(self, plan: Plan) -> Outcome:
        done: list[_Done] = []
        left = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for steps in plan.staged():
                if any(each.failure is not None and not each.failure.by_policy for each in done):
                    left += len(steps)
                    continue
                done += pool.map(self._step, steps)
        failures = tuple(each.failure for each in done if each.failure is not None)
        waiting = tuple(one for each in done for one in each.waiting)
        finished = sum(each.failure is None and not each.waiting for each in done)
        return Outcome(finished, waiting, failures, left + sum(each.left for each in done))

    def _step(self, step: Step) -> _Done:
        try:
            for request in step.requests:
                self._send(request)
            return self._propose(step)
        except Refused as refused:
            lines = tuple(refused.lines())
            return _Done(failure=Failure(step.verb, step.kind, step.name, refused.code, lines))
        finally:
            self._advance()

    def _send(self, request: Request) -> None:
        headers = {}
        if request.etag is not None:
            headers = {"if-match": f'"{request.etag}"'} if request.etag else {"if-none-match": "*"}
        self._connection.send(request.method, request.path, request.body, headers)

    def _propose(self, step: Step) -> _Done:
        """One after the other: the approval of one makes the next one stale, so it is not proposed before."""
        for at, proposal in enumerate(step.proposals):
            name = find_proposal(proposal, self._proposed)
            if name is None:
                name = str(uuid.uuid4())
                subject = {} if proposal.kind == "policyRelease" else {"subject": proposal.subject}
                properties = {"kind": proposal.kind, "change": proposal.change, "reason": GROUNDS, **subject}
                self._connection.put(f"{ACCESS}/proposals/{name}", {"properties": properties})
            if self._break_glass is None:
                waiting = Waiting(name, f"{step.kind} {step.name}", f"{proposal.kind}: {proposal.told}")
                return _Done((waiting,), left=len(step.proposals) - at - 1)
            said = {"breakGlass": True, "reason": self._break_glass}
            self._connection.post(f"{ACCESS}/proposals/{name}/approve", said)
        return _Done()
