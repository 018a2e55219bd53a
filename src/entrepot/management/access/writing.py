"""What each kind has of its own when it is written: who may, what the system fills in, where the row belongs.

Every function here runs inside the change's transaction, before the row is put; `write.body` is what will be put.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from entrepot.errors import Code, Detail, Error
from entrepot.management.access import organizations
from entrepot.management.access.envelope import invalid
from entrepot.management.access.fitting import fit, mistakes
from entrepot.management.access.gateways import KEPT, STATUS
from entrepot.management.authorize import INSTANCE, Caller, chain_from, chain_of, may, require
from entrepot.management.changes import Change
from entrepot.management.world import ref
from entrepot.resources.ids import ACCESS, COLLECTIONS, access_id, site_name
from entrepot.storage import EVERYTHING, Row

# Rows with this operator are the instance's and no catalogue: only who sees everything sees them.
WITHHELD: Final = ""


class Write(NamedTuple):
    """`before` is the row as it stands, None for a new one; the caller may read it."""

    who: Caller
    change: Change
    id: str
    name: str
    before: Row | None
    body: dict[str, Any]

    @property
    def properties(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["properties"]
        return found

    @property
    def standing(self) -> Mapping[str, Any]:
        """The properties as they were."""
        return {} if self.before is None else self.before.body.get("properties", {})


async def prepare(kind: str, write: Write) -> str | None:
    """The operator whose row it is, None for the instance's catalogue. Raises Error when it may not be written so."""
    return await _PREPARED.get(kind, _of_instance)(write)


async def prepare_removal(write: Write) -> None:
    """Raises Error CONFLICT where the row has to stay for a reason that the rules of the world do not know."""
    assert write.before is not None
    if write.before.kind == "organization":
        organizations.keep_findings(write.standing)
    if write.before.kind != "operator":
        return
    for kind in ("organization", "upstream"):
        for row in await write.change.list(EVERYTHING, kind):
            if row.operator == write.name.lower():
                raise Error(
                    Code.CONFLICT,
                    f"the {kind} `{row.name}` is this operator's; remove it before the operator",
                    name="ResourceInUse",
                )


async def _of_instance(write: Write) -> str | None:
    """The catalogue: everybody reads it, staff of the instance writes it."""
    kind = _kind(write)
    require(write.who, f"{ACCESS}/{COLLECTIONS[kind]}/write", (write.id.lower(), INSTANCE))
    return None


def _refuse(kind: str, write: Write, problems: list[Detail]) -> None:
    """Raises Error (400) where there are problems: with them, and with every other mistake of the request's form."""
    if problems:
        told = {each.target for each in problems}
        found = mistakes(kind, write.id, write.body)
        raise invalid([*problems, *(each for each in found if each.target is None or each.target not in told)])


def _kind(write: Write) -> str:
    collection = write.id.split("/")[3]
    return next(kind for kind, name in COLLECTIONS.items() if name == collection)


async def _operator(write: Write) -> str | None:
    """Which operators there are, and who they are, is the instance's word; their own staff reads it."""
    action = f"{ACCESS}/operators/write"
    if not may(write.who, action, (INSTANCE,)):
        require(write.who, f"{ACCESS}/operators/read", chain_from(write.id, write.name))
        raise Error(
            Code.ACCESS_DENIED, "operators are written by the instance's own staff only", name="AuthorizationFailed"
        )
    return write.name.lower()


async def _region(write: Write) -> str | None:
    await _of_instance(write)
    if write.before is not None and write.standing.get("operator") != write.properties.get("operator"):
        for row in await write.change.list(EVERYTHING, "upstream"):
            if row.body.get("properties", {}).get("region") == write.name:
                message = (
                    f"the upstream `{row.name}` is the present operator's; remove it before the region changes hands"
                )
                raise Error(Code.CONFLICT, message, name="ResourceInUse", param="properties.operator")
    return None


async def _site(write: Write) -> str | None:
    await _of_instance(write)
    network = write.properties.get("network")
    if isinstance(network, str) and site_name(network) != write.name:
        message = "the site has another name than this network's, with `-` for `/`; PUT it under its own"
        _refuse("site", write, [Detail("InvalidProperty", message, "properties.network")])
    return None


async def _gateway(write: Write) -> str | None:
    require(write.who, f"{ACCESS}/gateways/write", (write.id.lower(), INSTANCE))
    write.properties.pop(STATUS, None)
    _keep(write, KEPT)
    return WITHHELD


async def _settings(write: Write) -> str | None:
    await _of_instance(write)
    _keep(write, frozenset({"issuer"}))  # the token authority's own keys
    days = write.properties.get("warnDays", 0)
    if type(days) is not int or not 0 <= days <= 3_650:
        fix = "expected a whole number of days, from 0 to 3650"
        _refuse("settings", write, [Detail("InvalidProperty", fix, "properties.warnDays")])
    store = write.properties.get("limitStore")
    url = store.get("url") if isinstance(store, dict) else None
    if isinstance(url, str) and ("@" in url or "password=" in url):
        fix = "it has a password, and everybody reads settings; write `env:NAME`, which is looked up at each gateway"
        _refuse("settings", write, [Detail("InvalidProperty", fix, "properties.limitStore.url")])
    return None


def _keep(write: Write, names: frozenset[str]) -> None:
    """What a request says about these is passed over: they stay as they are."""
    for name in names:
        if name in write.standing:
            write.properties[name] = write.standing[name]
        else:
            write.properties.pop(name, None)


async def _upstream(write: Write) -> str | None:
    """An upstream belongs to whoever runs its region."""
    action = f"{ACCESS}/upstreams/write"
    if write.before is not None:
        require(write.who, action, chain_of(write.before))
    region = write.properties.get("region")
    row = await write.change.get(EVERYTHING, access_id("region", region)) if isinstance(region, str) else None
    operator = row.body["properties"].get("operator") if row is not None else None
    # Who may write nowhere learns nothing.
    require(write.who, action, (write.id.lower(), INSTANCE) if operator is None else chain_from(write.id, operator))
    _refuse("upstream", write, await _credential(write))
    if operator is None:
        fit("upstream", write.id, write.body)  # that it names no region at all is among the mistakes of its form
        raise _nothing("region", region)
    return str(operator).lower()


def _nothing(kind: str, name: Any) -> Error:
    message = f"there is no {kind} `{name}`; make it first"
    return Error(Code.CONFLICT, message, name="Conflict", param=f"properties.{kind}")


async def _credential(write: Write) -> list[Detail]:
    """`credentialValue` goes into the store of secrets and nowhere else; the row only says that there is one.

    Returns the mistakes. Of a credential that has one the row says that it is there: that is told already.
    """
    place, held = ref(write.id, "credential"), "secret"
    value = write.properties.pop("credentialValue", None)
    given = write.properties.get("credential")
    if value is None and given == "none":
        await write.change.forget_secrets(place)
        return []
    write.properties["credential"] = held
    if value is not None:
        if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 8_192:
            return [Detail("InvalidProperty", "expected the secret, on one line", "properties.credentialValue")]
        await write.change.put_secret(place, value.encode())
        return []
    if given in (None, held) and write.standing.get("credential") == held:
        # INVARIANT: whoever may write an upstream cannot learn its credential by having it sent elsewhere.
        if _address(write.properties) == _address(write.standing):
            return []
        message = "with another `baseUrl` or proxy the credential is given anew: the one that is kept is for the old"
        return [Detail("CredentialRequired", message, "properties.credentialValue")]
    message = (
        "the control plane reads neither its host's files nor its environment; write the secret itself to "
        "`credentialValue`, where it is kept encrypted and never shown, or `none`"
    )
    return [Detail("InvalidProperty", message, "properties.credential")]


def _address(properties: Mapping[str, Any]) -> tuple[Any, Any]:
    """Who receives what is sent with an upstream's credential."""
    proxy = properties.get("proxy")
    return properties.get("baseUrl"), proxy.get("url") if isinstance(proxy, dict) else proxy


async def _organization(write: Write) -> str | None:
    misread = organizations.operator_mistakes(write.properties)
    documents = organizations.document_mistakes(write.properties.get("documents", []))
    if misread:  # whose it is cannot be told, so neither who may write it; its form can
        _refuse("organization", write, misread + documents)
    operator = organizations.operator_of(write.standing, write.properties)
    chain = chain_from(write.id, operator)
    organizations.authorize(write.who, chain, write.standing, write.properties)
    if write.before is None and await write.change.get(EVERYTHING, access_id("operator", operator)) is None:
        raise _nothing("operator", operator)
    _refuse("organization", write, documents)
    organizations.complete(write.id, write.standing, write.properties, write.who.actor, write.change.at_ms)
    return operator.lower()


_PREPARED: Final[Mapping[str, Callable[[Write], Awaitable[str | None]]]] = {
    "operator": _operator,
    "region": _region,
    "site": _site,
    "upstream": _upstream,
    "gateway": _gateway,
    "settings": _settings,
    "organization": _organization,
}
