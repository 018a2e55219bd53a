"""The resources of a world as frozen structs. References are names, checked before anything uses them.

Instants are `_ms`: milliseconds since 1970-01-01T00:00:00Z. Shares are `_micros`: millionths of a percent.
Money is in micros, millionths of the currency's unit.
Territories are ISO 3166-1 alpha-2 or 3166-2 codes in capitals, or `unknown`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

UNKNOWN = "unknown"

Channel = Literal["direct", "cloud"]
EntityType = Literal["enterprise", "individual", "public_body", "nonprofit"]
Kyc = Literal["none", "pending", "approved", "expired", "rejected"]
Screening = Literal["clear", "hit", "unknown"]
NetworkClass = Literal["isp", "business", "hosting", "vpn", "tor", "relay", "mobile", "unknown"]
Sku = Literal["Standard", "DataZoneStandard", "GlobalStandard"]
Api = Literal["openai", "azure"]
AccountState = Literal["active", "suspended"]
Period = Literal["day", "month"]


class Tls(msgspec.Struct, frozen=True):
    certificate: str
    key: str


class Geo(msgspec.Struct, frozen=True):
    """An operator-installed `.mmdb` edition. Past `max_age_days` after its build every address is `unknown`."""

    path: str
    max_age_days: int = 35


class Limits(msgspec.Struct, frozen=True):
    """What one client may ask of the listener, and for how long (bytes, counts, seconds)."""

    request_line_bytes: int = 8_192
    header_bytes: int = 32_768
    header_count: int = 100
    body_bytes: int = 32 * 1024 * 1024
    header_s: float = 10.0
    body_s: float = 60.0
    idle_s: float = 75.0
    write_stall_s: float = 60.0
    drain_s: float = 30.0


AccessLog = Literal["off", "on", "address"]


class LimitStore(msgspec.Struct, frozen=True):
    """Redis or Valkey, by which gateways share limits. While it is away budgets refuse (`closed`) or admit (`open`)."""

    url: str
    budgets: Literal["closed", "open"] = "closed"


class Gateway(msgspec.Struct, frozen=True):
    listen: str = "127.0.0.1:8080"
    admin_listen: str = "127.0.0.1:9090"
    territory: str = UNKNOWN
    origin_header: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    tls: Tls | None = None
    data_domain: str | None = None
    workers: int = 1
    log_name: str = "gateway-1"
    limits: Limits = Limits()
    geo: Geo | None = None
    limit_store: LimitStore | None = None
    access_log: AccessLog = "off"


class Site(msgspec.Struct, frozen=True):
    network: str
    territory: str
    network_class: NetworkClass = "unknown"


class Operator(msgspec.Struct, frozen=True):
    name: str
    legal_name: str
    territory: str


class Region(msgspec.Struct, frozen=True):
    name: str
    territory: str
    operator: str
    zones: tuple[str, ...] = ()
    display_name: str | None = None


class Provider(msgspec.Struct, frozen=True):
    name: str
    legal_name: str | None = None


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy (CONNECT for https) to an upstream; `territory` is where the call leaves from."""

    url: str
    territory: str


class Timeouts(msgspec.Struct, frozen=True):
    connect_s: float = 5.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 900.0


class Upstream(msgspec.Struct, frozen=True):
    """A concrete endpoint. `models` maps our `model@version` to what this upstream calls it (azure: its deployment)."""

    name: str
    provider: str
    region: str
    api: Api
    base_url: str
    credential: str
    models: dict[str, str]
    api_version: str | None = None
    priority: int = 1
    weight: int = 100
    proxy: Proxy | None = None
    timeouts: Timeouts = Timeouts()


class Price(msgspec.Struct, frozen=True):
    """Micros of `currency` per million tokens, in force from `from_ms` on."""

    from_ms: int
    input_micros: int
    output_micros: int
    cached_micros: int | None = None
    currency: str = "USD"


class Rate(msgspec.Struct, frozen=True):
    """A deployment may be asked `requests` times a minute for each `capacity` units of its capacity."""

    requests: int
    capacity: int = 1


class Model(msgspec.Struct, frozen=True):
    """Without a `rate` it is the one that the real service has for a model of this name (`rates.rate_of`)."""

    name: str
    version: str
    provider: str | None = None
    context_tokens: int | None = None
    output_tokens: int | None = None
    default_output_tokens: int = 1_000
    prices: tuple[Price, ...] = ()
    rate: Rate | None = None


class Budget(msgspec.Struct, frozen=True):
    """Money for each day or calendar month in UTC; at `soft_percent` of it calls are told."""

    amount_micros: int
    period: Period
    currency: str = "USD"
    soft_percent: int = 80


class Quota(msgspec.Struct, frozen=True):
    """What may be used of models; None is no limit of this kind."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    in_flight: int | None = None
    budgets: tuple[Budget, ...] = ()


class Registration(msgspec.Struct, frozen=True):
    kind: str
    number: str


class Owner(msgspec.Struct, frozen=True):
    """A holder of a share, directly in the organization or, with `of`, in another owner of the same list."""

    name: str
    territory: str = UNKNOWN
    share_micros: int | None = None
    of: str | None = None


class Licence(msgspec.Struct, frozen=True):
    number: str
    expires_ms: int | None = None


class Eligibility(msgspec.Struct, frozen=True):
    name: str
    expires_ms: int | None = None


class Organization(msgspec.Struct, frozen=True):
    name: str
    legal_name: str
    territory: str
    entity_type: EntityType
    kyc: Kyc = "none"
    kyc_expires_ms: int | None = None
    screening: Screening = "unknown"
    registration: Registration | None = None
    licence: Licence | None = None
    eligibility: tuple[Eligibility, ...] = ()
    flag: tuple[str, ...] = ()
    owners: tuple[Owner, ...] = ()
    limits: Quota = Quota()


class Subscription(msgspec.Struct, frozen=True):
    """What counts for a call is its account's `operator` and `channel`; here they are those of the contract."""

    id: str
    organization: str
    operator: str | None = None
    channel: Channel | None = None
    display_name: str | None = None


class Egress(msgspec.Struct, frozen=True):
    """An attested network of the client's own servers: calls from it come from `territory`, whatever GeoIP says."""

    network: str
    territory: str
    network_class: NetworkClass = "business"


class Deployment(msgspec.Struct, frozen=True):
    name: str
    model: str
    version: str
    sku: Sku = "Standard"
    capacity: int = 1


class Keys(msgspec.Struct, frozen=True):
    """References: `sha256:HEX` of the key (64 lower-case digits), `env:NAME`, `file:PATH`.

    A key in plain text is warned of and hashed when it is read, so that no World holds one.
    """

    key1: str
    key2: str | None = None


class Account(msgspec.Struct, frozen=True):
    """With `disable_local_auth` its keys open nothing: calls need a token.

    `key_limits` are those of each key, and of each principal that calls with a token.
    """

    name: str
    subscription: str
    resource_group: str
    location: str
    channel: Channel
    operator: str
    keys: Keys
    state: AccountState = "active"
    residency: tuple[str, ...] = ()
    egress: tuple[Egress, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    disable_local_auth: bool = False
    limits: Quota = Quota()
    key_limits: Quota = Quota()


class PackSource(msgspec.Struct, frozen=True):
    """The bytes of a policy pack and the name by which the world refers to it."""

    name: str
    data: bytes


class World(msgspec.Struct, frozen=True):
    gateway: Gateway = Gateway()
    sites: tuple[Site, ...] = ()
    operators: tuple[Operator, ...] = ()
    regions: tuple[Region, ...] = ()
    providers: tuple[Provider, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    models: tuple[Model, ...] = ()
    organizations: tuple[Organization, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    accounts: tuple[Account, ...] = ()
    packs: tuple[PackSource, ...] = ()
    warn_days: int = 30
