"""Where a call comes from, as the policy sees it and the ledger keeps it."""

from __future__ import annotations

import msgspec

from entrepot.resources.model import UNKNOWN, NetworkClass


class Origin(msgspec.Struct, frozen=True):
    """`source` is `egress` (attested), `site`, `mmdb`, `iptocc` or `unknown`; `edition` names the data of a lookup."""

    territory: str = UNKNOWN
    network: NetworkClass = "unknown"
    attested: bool = False
    source: str = UNKNOWN
    edition: str = ""


NOWHERE = Origin()
