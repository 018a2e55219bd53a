"""The closed vocabulary of the access policy, language version 1: every fact, its kind and its values.

A fact is what a rule may ask about a call. Nothing here knows where a fact's value comes from (`derive.py` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from entrepot.resources.model import UNKNOWN

LANGUAGE: Final = 1
OTHER: Final = "*other*"

# closed: one of `values`; territory: a code of ISO 3166; name: one free name; names: a set of free names;
# owned: whether a set of territories holds at least (or more than) a share of the organization.
Kind = Literal["closed", "territory", "name", "names", "owned"]

OPERATIONS: Final = (
    "chat",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "images",
    "audio",
    "files",
    "batch",
    "realtime",
    "moderations",
    "subscribe",
    "deploy",
    "fine_tune",
)

STATUSES: Final = ("in_force", "proposed", "stayed", "announced_not_enforced", "rescinded", "contract_term")

# Refusal codes that the wire formats know. Of several matching forbids the client sees the earliest of this list.
CODES: Final = (
    "unsupported_territory",
    "cannot_deploy_due_to_local_regulations",
    "account_suspended",
    "access_denied",
)


class Fact(msgspec.Struct, frozen=True):
    """`unknown`: whether the value can be unknown, and so be named. `lawful`: whether a client may change it lawfully.

    `values` is the domain of a closed fact without `unknown`.
    """

    name: str
    kind: Kind
    about: str
    values: tuple[str, ...] = ()
    unknown: bool = False
    lawful: bool = False


BOOLEAN: Final = ("true", "false")

_ALL: Final = (
    Fact("org.territory", "territory", "where the organization is incorporated", unknown=True),
    Fact("org.owned_25", "owned", "owners from the set together hold 25 % or more", unknown=True),
    Fact("org.owned_50", "owned", "owners from the set together hold 50 % or more", unknown=True),
    Fact("org.owned_over_50", "owned", "owners from the set together hold more than 50 %", unknown=True),
    Fact(
        "org.entity_type",
        "closed",
        "the organization's legal form",
        ("enterprise", "individual", "public_body", "nonprofit"),
    ),
    Fact(
        "org.kyc",
        "closed",
        "the state of the identity check",
        ("none", "pending", "approved", "expired", "rejected"),
        lawful=True,
    ),
    Fact("org.licence", "closed", "the business licence", ("none", "valid", "expired"), lawful=True),
    Fact("org.screening", "closed", "the result of sanctions screening", ("clear", "hit"), unknown=True),
    Fact("org.eligibility", "names", "eligibilities that are granted and have not expired", lawful=True),
    Fact("org.flag", "names", "the operator's marks on the organization"),
    Fact("account.channel", "closed", "under whose contract the account is", ("direct", "cloud"), lawful=True),
    Fact("account.operator", "name", "the operator that the account's contract is with", lawful=True),
    Fact("account.state", "closed", "whether the account is in use", ("active", "suspended"), lawful=True),
    Fact("target.provider", "name", "whose model it is"),
    Fact("target.model", "name", "the model's name, without its version"),
    Fact("target.region", "name", "the region that would process the call", lawful=True),
    Fact("target.territory", "territory", "where the inference would run", unknown=True, lawful=True),
    Fact("target.zone", "names", "the data zones of that region", lawful=True),
    Fact("target.operator", "name", "who runs that region", lawful=True),
    Fact("egress.territory", "territory", "from where the upstream is reached", unknown=True),
    Fact(
        "target.in_residency",
        "closed",
        "whether the target is within the account's residency",
        BOOLEAN,
        lawful=True,
    ),
    Fact("origin.territory", "territory", "where the call comes from", unknown=True),
    Fact(
        "origin.network",
        "closed",
        "the kind of network that the call comes from",
        ("isp", "business", "hosting", "vpn", "tor", "relay", "mobile"),
        unknown=True,
    ),
    Fact("origin.attested", "closed", "whether that network is attested as the client's own", BOOLEAN),
    Fact("operation", "closed", "what is asked for", OPERATIONS),
)

FACTS: Final[Mapping[str, Fact]] = {fact.name: fact for fact in _ALL}


def domain(fact: Fact) -> tuple[str, ...]:
    """The values of a closed fact, `unknown` included where it can occur."""
    return (*fact.values, UNKNOWN) if fact.unknown else fact.values
