"""The public world format: every table, its keys, the struct that each becomes. `docs/world.md` is its reference."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from entrepot.resources import model, values
from entrepot.resources.lines import Path
from entrepot.resources.reading import Key, Mistake, Reported, Shape, Sheet, array, describe, read_table, suggest, table
from entrepot.resources.registration import check_registration


class Policy(msgspec.Struct, frozen=True):
    """`[policy]`: the packs in force, as files of the world or `entrepot:NAME`."""

    packs: tuple[str, ...] = ()
    warn_days: int = 30


_FLAG = Key(array(values.name, "names"))
_NETWORK_CLASS = Key(values.one_of(model.NetworkClass))
_DNS_LABEL = values.form(
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    "an account name",
    "use lower-case letters, digits and inner hyphens, at most 63: the name is a part of a host name",
)
_DOMAIN = values.form(
    r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    "a domain",
    'write a lower-case domain such as `"models.example.com"`',
)
_MODEL = values.form(values.MODEL, "a model name", 'write such as `"gpt-4o"`; the version is a key of its own')
_VERSION = values.form(values.VERSION, "a version", 'write such as `"2024-11-20"`')
_API_VERSION = values.form(r"[A-Za-z0-9][A-Za-z0-9._-]*", "an API version", 'write such as `"2024-10-21"`')
_DEPLOYMENT = values.form(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "a deployment name", "use letters, digits, `.`, `_` and `-`, at most 64 of them"
)
_RESOURCE_GROUP = values.form(
    r"[A-Za-z0-9._()-]{0,89}[A-Za-z0-9_()-]",
    "a resource group",
    "use letters, digits, `.`, `_`, `-` and parentheses, at most 90, no final dot",
)
_LOG_NAME = values.form(
    r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", "a log name", "use letters, digits, `.` and `-`, at most 64 of them"
)
_CURRENCY = values.form(r"[A-Z]{3}", "a currency", 'write an ISO 4217 code such as `"USD"`')
_OWNER_TEXT = Key(values.text)


def _named_until(value: Any, path: Path, key: str | int, sheet: Sheet) -> model.Eligibility:
    """An eligibility as a bare name or as `{ name, expires }`."""
    if type(value) is str:
        return model.Eligibility(_ELIGIBILITY_NAME(value, path, key, sheet))
    if type(value) is not dict:
        raise Mistake(
            f"expected a name or a table, found {describe(value)}", 'write `"openai@cloud"` or `{ name = "…" }`'
        )
    found: model.Eligibility = read_table(value, (*path, key), ELIGIBILITY, sheet)
    return found


_ELIGIBILITY_NAME = values.form(
    r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}", "an eligibility", 'write such as `"openai@cloud"`'
)


def _check_upstream(found: dict[str, Any], path: Path, sheet: Sheet) -> None:
    api, version = found.get("api"), found.get("api_version")
    if api == "azure" and version is None:
        sheet.mistake(path, "missing key `api_version`, which `azure` needs", 'add `api_version = "2024-10-21"`')
    if api == "openai" and version is not None:
        sheet.mistake((*path, "api_version"), "`openai` has no `api_version`", 'take it out, or write `api = "azure"`')


def _check_registration(found: dict[str, Any], path: Path, sheet: Sheet) -> None:
    kind, number = found.get("kind"), found.get("number")
    if kind and number and (what := check_registration(kind, number)):
        sheet.mistake((*path, "number"), f"`{number}`: {what}", "copy the number anew from the register")


def _check_keys(found: dict[str, Any], path: Path, sheet: Sheet) -> None:
    if found.get("key1") is not None and found.get("key1") == found.get("key2"):
        sheet.warn((*path, "key2"), "both keys are the same", "make another second key, or leave it out")


def _check_prices(found: dict[str, Any], path: Path, sheet: Sheet) -> None:
    seen: set[int] = set()
    for i, price in enumerate(found.get("prices", ())):
        if price.from_ms in seen:
            sheet.mistake((*path, "prices", i), "two prices begin at the same instant", "keep one of them")
        seen.add(price.from_ms)


def _check_quota(found: dict[str, Any], path: Path, sheet: Sheet) -> None:
    seen: set[tuple[str, str]] = set()
    for i, budget in enumerate(found.get("budgets", ())):
        if (budget.period, budget.currency) in seen:
            what = f"two budgets for each {budget.period} in {budget.currency}"
            sheet.mistake((*path, "budgets", i), what, "keep the smaller of them")
        seen.add((budget.period, budget.currency))


def _check_organization(found: dict[str, Any], path: Path, sheet: Sheet) -> None:
    names = [grant.name for grant in found.get("eligibility", ())]
    for i, grant in enumerate(names):
        if grant in names[:i]:
            sheet.mistake((*path, "eligibility", i), f"`{grant}` stands here twice", "keep one of them")


TLS = Shape("tls", model.Tls, {"certificate": Key(values.text), "key": Key(values.text)})
GEO = Shape("geo", model.Geo, {"path": Key(values.text), "max_age_days": Key(values.integer(1, 3_650))})
LIMITS = Shape(
    "limits",
    model.Limits,
    {
        "request_line_bytes": Key(values.integer(256, 65_536)),
        "header_bytes": Key(values.integer(1_024, 1_048_576)),
        "header_count": Key(values.integer(8, 1_000)),
        "body_bytes": Key(values.integer(1_024, 1_073_741_824)),
        "header_s": Key(values.seconds),
        "body_s": Key(values.seconds),
        "idle_s": Key(values.seconds),
        "write_stall_s": Key(values.seconds),
        "drain_s": Key(values.seconds),
    },
)
LIMIT_STORE = Shape(
    "limit_store",
    model.LimitStore,
    {"url": Key(values.store_url), "budgets": Key(values.one_of(Literal["closed", "open"]))},
)
GATEWAY = Shape(
    "gateway",
    model.Gateway,
    {
        "listen": Key(values.listener),
        "admin_listen": Key(values.listener),
        "territory": Key(values.territory_or_unknown),
        "origin_header": Key(values.header_name),
        "trusted_proxies": Key(array(values.trusted_network, "networks")),
        "tls": Key(table(TLS)),
        "data_domain": Key(_DOMAIN),
        "workers": Key(values.integer(1, 256)),
        "log_name": Key(_LOG_NAME),
        "limits": Key(table(LIMITS)),
        "geo": Key(table(GEO)),
        "limit_store": Key(table(LIMIT_STORE)),
        "access_log": Key(values.one_of(model.AccessLog)),
    },
)
SITE = Shape(
    "site",
    model.Site,
    {
        "network": Key(values.network),
        "territory": Key(values.territory_or_unknown),
        "network_class": _NETWORK_CLASS,
    },
)
OPERATOR = Shape(
    "operator",
    model.Operator,
    {"name": Key(values.name), "legal_name": Key(values.text), "territory": Key(values.territory_or_unknown)},
)
REGION = Shape(
    "region",
    model.Region,
    {
        "name": Key(values.name),
        "territory": Key(values.territory_or_unknown),
        "operator": Key(values.refer("operator")),
        "zones": Key(array(values.name, "names")),
        "display_name": Key(values.text),
    },
)
PROVIDER = Shape("provider", model.Provider, {"name": Key(values.name), "legal_name": Key(values.text)})
PROXY = Shape("proxy", model.Proxy, {"url": Key(values.proxy_url), "territory": Key(values.territory)})
TIMEOUTS = Shape(
    "timeouts",
    model.Timeouts,
    {
        "connect_s": Key(values.seconds),
        "first_byte_s": Key(values.seconds),
        "idle_s": Key(values.seconds),
        "total_s": Key(values.seconds),
    },
)
UPSTREAM = Shape(
    "upstream",
    model.Upstream,
    {
        "name": Key(values.name),
        "provider": Key(values.refer("provider")),
        "region": Key(values.refer("region")),
        "api": Key(values.one_of(model.Api)),
        "base_url": Key(values.base_url),
        "credential": Key(values.credential),
        "models": Key(values.served_models),
        "api_version": Key(_API_VERSION),
        "priority": Key(values.integer(0, 1_000_000)),
        "weight": Key(values.integer(1, 1_000_000)),
        "proxy": Key(table(PROXY)),
        "timeouts": Key(table(TIMEOUTS)),
    },
    _check_upstream,
)
PRICE = Shape(
    "price",
    model.Price,
    {
        "from": Key(values.instant, "from_ms"),
        "input_micros": Key(values.micros),
        "output_micros": Key(values.micros),
        "cached_micros": Key(values.micros),
        "currency": Key(_CURRENCY),
    },
)
RATE = Shape(
    "rate",
    model.Rate,
    {"requests": Key(values.integer(1, 1_000_000)), "capacity": Key(values.integer(1, 1_000_000))},
)
MODEL = Shape(
    "model",
    model.Model,
    {
        "name": Key(_MODEL),
        "version": Key(_VERSION),
        "provider": Key(values.refer("provider")),
        "context_tokens": Key(values.integer(1, 1_000_000_000)),
        "output_tokens": Key(values.integer(1, 1_000_000_000)),
        "default_output_tokens": Key(values.integer(1, 1_000_000_000)),
        "prices": Key(array(table(PRICE), "tables")),
        "rate": Key(table(RATE)),
    },
    _check_prices,
)
BUDGET = Shape(
    "budget",
    model.Budget,
    {
        "amount_micros": Key(values.integer(1, 1_000_000_000_000)),
        "period": Key(values.one_of(model.Period)),
        "currency": Key(_CURRENCY),
        "soft_percent": Key(values.integer(1, 100)),
    },
)
QUOTA = Shape(
    "quota",
    model.Quota,
    {
        "requests_per_minute": Key(values.integer(1, 100_000_000)),
        "tokens_per_minute": Key(values.integer(1, 10_000_000_000)),
        "in_flight": Key(values.integer(1, 1_000_000)),
        "budgets": Key(array(table(BUDGET), "tables")),
    },
    _check_quota,
)
REGISTRATION = Shape(
    "registration", model.Registration, {"kind": Key(values.name), "number": Key(values.text)}, _check_registration
)
LICENCE = Shape("licence", model.Licence, {"number": Key(values.text), "expires": Key(values.instant, "expires_ms")})
ELIGIBILITY = Shape(
    "eligibility",
    model.Eligibility,
    {"name": Key(_ELIGIBILITY_NAME), "expires": Key(values.instant, "expires_ms")},
)
OWNER = Shape(
    "owner",
    model.Owner,
    {
        "name": _OWNER_TEXT,
        "territory": Key(values.territory_or_unknown),
        "share": Key(values.share, "share_micros"),
        "of": _OWNER_TEXT,
    },
)
ORGANIZATION = Shape(
    "organization",
    model.Organization,
    {
        "name": Key(values.name),
        "legal_name": Key(values.text),
        "territory": Key(values.territory_or_unknown),
        "entity_type": Key(values.one_of(model.EntityType)),
        "kyc": Key(values.one_of(model.Kyc)),
        "kyc_expires": Key(values.instant, "kyc_expires_ms"),
        "screening": Key(values.one_of(model.Screening)),
        "registration": Key(table(REGISTRATION)),
        "licence": Key(table(LICENCE)),
        "eligibility": Key(array(_named_until, "names")),
        "flag": _FLAG,
        "owners": Key(array(table(OWNER), "tables")),
        "limits": Key(table(QUOTA)),
    },
    _check_organization,
)
SUBSCRIPTION = Shape(
    "subscription",
    model.Subscription,
    {
        "id": Key(values.guid),
        "organization": Key(values.refer("organization")),
        "operator": Key(values.refer("operator")),
        "channel": Key(values.one_of(model.Channel)),
        "display_name": Key(values.text),
    },
)
EGRESS = Shape(
    "egress",
    model.Egress,
    {"network": Key(values.network), "territory": Key(values.territory), "network_class": _NETWORK_CLASS},
)
KEYS = Shape("keys", model.Keys, {"key1": Key(values.client_key), "key2": Key(values.client_key)}, _check_keys)
DEPLOYMENT = Shape(
    "deployment",
    model.Deployment,
    {
        "name": Key(_DEPLOYMENT),
        "model": Key(_MODEL),
        "version": Key(_VERSION),
        "sku": Key(values.one_of(model.Sku)),
        "capacity": Key(values.integer(1, 1_000_000)),
    },
)
ACCOUNT = Shape(
    "account",
    model.Account,
    {
        "name": Key(_DNS_LABEL),
        "subscription": Key(values.refer("subscription")),
        "resource_group": Key(_RESOURCE_GROUP),
        "location": Key(values.refer("region")),
        "channel": Key(values.one_of(model.Channel)),
        "operator": Key(values.refer("operator")),
        "keys": Key(table(KEYS)),
        "state": Key(values.one_of(model.AccountState)),
        "residency": Key(array(values.refer("residency"), "territories and zones")),
        "egress": Key(array(table(EGRESS), "tables")),
        "deployment": Key(array(table(DEPLOYMENT), "tables"), "deployments"),
        "disable_local_auth": Key(values.boolean),
        "limits": Key(table(QUOTA)),
        "key_limits": Key(table(QUOTA)),
    },
)
POLICY = Shape(
    "policy", Policy, {"packs": Key(array(values.text, "packs")), "warn_days": Key(values.integer(0, 3_650))}
)

# Tables of a file: those that repeat (`[[name]]`) and those that stand once in the world (`[name]`).
MANY = {s.kind: s for s in (SITE, OPERATOR, REGION, PROVIDER, UPSTREAM, MODEL, ORGANIZATION, SUBSCRIPTION, ACCOUNT)}
ONCE = {s.kind: s for s in (GATEWAY, POLICY)}
# Tables inside tables.
INNER = {
    s.kind: s
    for s in (
        TLS,
        GEO,
        LIMITS,
        LIMIT_STORE,
        PROXY,
        TIMEOUTS,
        PRICE,
        RATE,
        BUDGET,
        QUOTA,
        REGISTRATION,
        LICENCE,
        ELIGIBILITY,
        OWNER,
        EGRESS,
        KEYS,
        DEPLOYMENT,
    )
}


def read_file(document: dict[str, Any], sheet: Sheet) -> None:
    """Read every table of one parsed file onto the sheet."""
    for kind, value in document.items():
        if shape := MANY.get(kind):
            _read_many(value, shape, sheet)
        elif shape := ONCE.get(kind):
            _read_once(value, shape, sheet)
        elif kind in INNER:
            fix = _INNER_FIX.get(kind, "put it into the table that it belongs to")
            sheet.mistake((kind,), f"`{kind}` does not stand by itself", fix)
        else:
            sheet.mistake((kind,), f"unknown table `{kind}`", suggest(kind, [*MANY, *ONCE], "tables"))


_INNER_FIX = {
    "deployment": "write `[[account.deployment]]` after its `[[account]]`",
    "limits": "write `[gateway.limits]`, or `limits = { … }` in an `[[account]]` or `[[organization]]`",
    "geo": "write `[gateway.geo]`",
    "limit_store": "write `[gateway.limit_store]`",
    "tls": "write `[gateway.tls]`",
    "timeouts": "write `timeouts = { … }` in its `[[upstream]]`",
    "egress": "write `egress = [{ … }]` in its `[[account]]`",
    "keys": "write `keys = { … }` in its `[[account]]`",
    "owner": "write `owners = [{ … }]` in its `[[organization]]`",
}


def _read_many(value: Any, shape: Shape, sheet: Sheet) -> None:
    if type(value) is not list:
        sheet.mistake((shape.kind,), f"`{shape.kind}` is {describe(value)}, but repeats", f"write `[[{shape.kind}]]`")
        if type(value) is dict:  # its name counts all the same, or every use of it would be told as a mistake
            _read(value, (shape.kind,), shape, sheet)
        return
    for i, item in enumerate(value):
        _read(item, (shape.kind, i), shape, sheet)


def _read_once(value: Any, shape: Shape, sheet: Sheet) -> None:
    if type(value) is list:
        sheet.mistake((shape.kind,), f"`{shape.kind}` stands once, but is an array", f"write `[{shape.kind}]`, once")
        return
    _read(value, (shape.kind,), shape, sheet)


def _read(value: Any, path: Path, shape: Shape, sheet: Sheet) -> None:
    try:
        read_table(value, path, shape, sheet)
    except Mistake as mistake:
        sheet.mistake(path, mistake.what, mistake.fix)
    except Reported:
        return
