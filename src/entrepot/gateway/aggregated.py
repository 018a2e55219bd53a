"""Refusals past a key's limit of requests, counted by key, rule and minute: whoever has one cannot fill the disk."""

from __future__ import annotations

from typing import NamedTuple

from entrepot.errors import Error
from entrepot.gateway.bounds import key_of
from entrepot.gateway.call import Call
from entrepot.ledger.commitments import commit
from entrepot.ledger.entries import Personal, encode
from entrepot.ledger.entries import Refusals as Entry
from entrepot.limits.rate import MINUTE_MS, requests_per_minute
from entrepot.limits.reserve import Memory, asked_of
from entrepot.policy import Decision
from entrepot.projections.refusals import refusing


class Kind(NamedTuple):
    minute: int
    account: str
    key: str
    code: str
    rule: str


class Aggregated:
    """Of one worker. What is counted and not yet an entry is lost with the process: a minute's, at most."""

    def __init__(self) -> None:
        self._recorded = Memory()
        self._counts: dict[Kind, int] = {}

    def is_past(self, call: Call) -> bool:
        """Whether this refusal gets no entry of its own. A key without a limit of requests gets one for each."""
        account = call.account
        assert account is not None
        number = account.given.key_limits.requests_per_minute
        if number is None:
            return False
        key = key_of("refusals", account.name, call.key_name)
        asked = asked_of((key, requests_per_minute(number, MINUTE_MS), 1))
        return self._recorded.reserve(asked, call.at_ms) is not None

    def add(self, call: Call, refused: Error, decisions: tuple[Decision, ...]) -> None:
        assert call.account is not None
        rule = "" if all(one.permit for one in decisions) else refusing((one.permit, one.rules) for one in decisions)
        kind = Kind(call.at_ms // MINUTE_MS, call.account.name, call.key_name, refused.name, rule)
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def due(self, now_ms: int, *, all_of_them: bool = False) -> list[tuple[bytes, bytes]]:
        """Entries, with their personal data, of the minutes that are over."""
        self._recorded.forget(now_ms)
        minute = now_ms // MINUTE_MS
        found = []
        for kind in [each for each in self._counts if all_of_them or each.minute < minute]:
            personal, commitment = commit(Personal("", kind.key))
            entry = Entry(
                kind.account, now_ms, kind.code, commitment, self._counts.pop(kind), kind.minute * MINUTE_MS, kind.rule
            )
            found.append((encode(entry), personal))
        return found
