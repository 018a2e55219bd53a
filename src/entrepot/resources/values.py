"""Readers of single values: text in a given form, numbers in a range, instants, territories, networks, secrets."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args
from urllib.parse import SplitResult, urlsplit

from entrepot.resources.lines import Path
from entrepot.resources.model import UNKNOWN
from entrepot.resources.reading import Mistake, Reader, Reference, Reported, Sheet, describe
from entrepot.resources.territories import normalise_territory

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_SHA256 = re.compile(r"sha256:[0-9a-fA-F]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


def text(value: Any, _path: Path, key: str | int, _sheet: Sheet) -> str:
    if type(value) is not str:
        raise Mistake(f"expected a string, found {describe(value)}", f'write `{key} = "…"`, in quotes')
    if not value.strip():
        raise Mistake("the string is empty", "write a value, or leave the key out if it is optional")
    if _CONTROL.search(value):
        raise Mistake("the string holds a line end or another control character", "write it on one line")
    return value


def form(pattern: str, what: str, fix: str) -> Reader:
    """Text that matches `pattern` in whole. The value is shown in the message: not for secrets."""
    match = re.compile(pattern).fullmatch

    def read(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
        if type(value) is not str or not match(value):
            raise Mistake(f"`{text(value, path, key, sheet)}` is not {what}", fix)
        return value

    return read


name = form(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", "a name", "use letters, digits, `.`, `_` and `-`, at most 128 of them")


def one_of(literal: Any) -> Reader:
    """One of the values of a `Literal`."""
    allowed = frozenset(get_args(literal))
    listed = ", ".join(f"`{value}`" for value in get_args(literal))

    def read(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
        if type(value) is str and value in allowed:
            return value
        raise Mistake(f"`{text(value, path, key, sheet)}` is not allowed here", f"write one of {listed}")

    return read


def refer(kind: str) -> Reader:
    """The name of a resource of `kind`, which is looked up once all files are read."""

    def read(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
        found = text(value, path, key, sheet)
        if kind == "subscription":
            found = found.lower()
        sheet.references.append(Reference(kind, found, sheet.file, (*path, key)))
        return found

    return read


def integer(least: int, most: int) -> Reader:
    def read(value: Any, _path: Path, key: str | int, _sheet: Sheet) -> int:
        if type(value) is not int:
            raise Mistake(
                f"expected an integer, found {describe(value)}", f"write `{key} = {least}` or more, no quotes"
            )
        if not least <= value <= most:
            raise Mistake(f"`{value}` is out of range", f"write a number from {least} to {most}")
        return value

    return read


def boolean(value: Any, _path: Path, key: str | int, _sheet: Sheet) -> bool:
    if type(value) is not bool:
        raise Mistake(f"expected a boolean, found {describe(value)}", f"write `{key} = true` or `false`, no quotes")
    return value


def seconds(value: Any, _path: Path, key: str | int, _sheet: Sheet) -> float:
    """A length of time greater than zero, at most a day."""
    if type(value) not in (int, float):
        raise Mistake(f"expected a number of seconds, found {describe(value)}", f"write `{key} = 30`, no quotes")
    if not 0 < value <= 86_400:
        raise Mistake(f"`{value}` is out of range", "write seconds, more than 0 and at most 86400")
    return float(value)


def territory(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    found = text(value, path, key, sheet)
    code = normalise_territory(found)
    if code is None:
        raise Mistake(
            f"`{found}` is no territory",
            'write an ISO 3166-1 alpha-2 code such as `"JP"`, or an ISO 3166-2 code such as `"UA-43"`',
        )
    return code


def territory_or_unknown(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    return UNKNOWN if value == UNKNOWN else territory(value, path, key, sheet)


def instant(value: Any, _path: Path, key: str | int, _sheet: Sheet) -> int:
    """Milliseconds since the epoch of an offset date-time, or of 00:00 UTC of a date."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise Mistake("the date-time has no offset", "add `Z` (UTC) or an offset such as `+09:00`")
        return (value - _EPOCH) // _MS
    if isinstance(value, date):
        return (datetime(value.year, value.month, value.day, tzinfo=UTC) - _EPOCH) // _MS
    raise Mistake(
        f"expected a date or date-time, found {describe(value)}",
        f"write `{key} = 2027-01-31` or `2027-01-31T12:00:00Z`, no quotes",
    )


def share(value: Any, _path: Path, key: str | int, _sheet: Sheet) -> int | None:
    """Per cent as millionths of a per cent; `unknown` is None."""
    if value == UNKNOWN:
        return None
    if type(value) not in (int, float):
        raise Mistake(f"expected a percentage, found {describe(value)}", f'write `{key} = 51.0` or `"{UNKNOWN}"`')
    if not 0 <= value <= 100:
        raise Mistake(f"`{value}` is no share", "write per cent, from 0 to 100")
    micros_of_percent: int = round(value * 1_000_000)
    return micros_of_percent


def network(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """An IP network in its canonical form; a bare address is a network of one."""
    net = _network(text(value, path, key, sheet))
    if net.endswith("/0"):
        sheet.warn((*path, key), f"`{net}` is the whole internet", "name the networks that are meant")
    return net


def trusted_network(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """A network of proxies. All addresses would let every client choose its own origin."""
    found = text(value, path, key, sheet)
    if found == "*" or (net := _network(found)).endswith("/0"):
        raise Mistake(
            f"`{found}` would trust every client's own word on where it comes from",
            "name the networks of the proxies that stand before this gateway",
        )
    return net


def _network(found: str) -> str:
    try:
        net = ipaddress.ip_network(found, strict=False)
        first = ipaddress.ip_interface(found).ip
    except ValueError:
        raise Mistake(f"`{found}` is no IP network", 'write CIDR such as `"10.20.0.0/16"`') from None
    if "%" in found:
        raise Mistake(f"`{found}` has a zone id", "leave out `%` and what follows")
    if first != net.network_address:
        raise Mistake(f"`{found}` has bits set to the right of its prefix", f'write `"{net}"`')
    if isinstance(net, ipaddress.IPv6Network) and net.network_address.ipv4_mapped and net.prefixlen >= 96:
        inner = f"{net.network_address.ipv4_mapped}/{net.prefixlen - 96}"
        raise Mistake(f"`{found}` is an IPv4-mapped network", f'write `"{inner}"`')
    return str(net)


def listener(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """`host:port`, `[IPv6]:port`; port 0 lets the system choose."""
    found = text(value, path, key, sheet)
    host, colon, port = found.rpartition(":")
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else None
    good = _is_v6(inner) if inner is not None else bool(_HOST.fullmatch(host)) and not _looks_wrong_v4(host)
    if not colon or not good or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise Mistake(f"`{found}` is no address to listen on", 'write `"127.0.0.1:8080"` or `"[::1]:8080"`')
    return found


def _is_v6(found: str) -> bool:
    try:
        ipaddress.IPv6Address(found)
    except ValueError:
        return False
    return "%" not in found


def _looks_wrong_v4(host: str) -> bool:
    """A host of digits and dots that is no IPv4 address."""
    if not re.fullmatch(r"[0-9.]+", host):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


def _url(found: str) -> SplitResult | None:
    """The parts of an absolute URL with a host and a possible port; None when it is none."""
    try:
        parts = urlsplit(found)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    if any(c.isspace() or not c.isprintable() for c in found) or not found.isascii():
        return None
    return parts if good else None


def base_url(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """`http(s)://host[:port][/path]`, without a final slash. Credentials never stand in it."""
    parts = _url(text(value, path, key, sheet))
    if parts is None or parts.scheme not in ("http", "https"):
        raise Mistake("not a URL with `http` or `https` and a host", 'write such as `"https://api.example.com/v1"`')
    if parts.username is not None or parts.password is not None:
        raise Mistake("the URL holds a user or password", "take it out and name the secret in `credential`")
    if "?" in value or "#" in value:
        raise Mistake("the URL has a query or fragment", "end it after the path; `api_version` is a key of its own")
    return str(value).rstrip("/")


def proxy_url(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """`http://[user:password@]host:port`."""
    parts = _url(text(value, path, key, sheet))
    if parts is None or parts.scheme != "http" or parts.port is None or parts.path not in ("", "/"):
        raise Mistake("not the URL of an HTTP proxy", 'write such as `"http://proxy.example.com:3128"`')
    if parts.query or parts.fragment:
        raise Mistake("the URL has a query or fragment", "end it after the port")
    if parts.password is not None:
        sheet.warn((*path, key), "a password stands here in plain text", "let the proxy admit this gateway by address")
    return str(value).rstrip("/")


def store_url(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """Where a Redis or Valkey is, or a reference to that, which is looked up where the gateway runs."""
    found = text(value, path, key, sheet)
    if found.startswith(("env:", "file:")):
        return _outside(found)
    try:
        parts = urlsplit(found)
        good = bool(parts.hostname or parts.scheme == "unix") and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.scheme not in ("redis", "rediss", "unix"):
        raise Mistake("not the URL of a Redis", 'write such as `"redis://127.0.0.1:6379/0"`, or `"env:LIMIT_STORE"`')
    if parts.password is not None:
        sheet.warn((*path, key), "a secret stands here in plain text", "write `env:NAME` or `file:PATH` of the URL")
    return found


def client_key(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """A reference to a client's key. A key in plain text is warned of and goes on as its hash."""
    found = text(value, path, key, sheet)
    if found.startswith("sha256:"):
        if not _SHA256.fullmatch(found):
            raise Mistake(
                "`sha256:` is not followed by 64 hexadecimal digits", "write the key's SHA-256 in hexadecimal"
            )
        return found.lower()
    if found.startswith(("env:", "file:")):
        return _outside(found)
    digest = hashlib.sha256(found.encode()).hexdigest()
    sheet.warn(
        (*path, key), "a secret stands here in plain text", "write `sha256:` and its hash, `env:NAME` or `file:PATH`"
    )
    return f"sha256:{digest}"


def credential(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    """A reference to the operator's own secret for an upstream."""
    found = text(value, path, key, sheet)
    if found == "none":
        return found
    if not found.startswith(("env:", "file:")):
        raise Mistake(
            "not a reference to a secret; if it is the secret itself, it stands here in plain text",
            "write `env:NAME`, `file:PATH` or `none`",
        )
    return _outside(found)


def _outside(found: str) -> str:
    if found.startswith("env:") and not _ENV.fullmatch(found):
        raise Mistake("`env:` is not followed by the name of a variable", "write such as `env:UPSTREAM_KEY`")
    if found == "file:":
        raise Mistake("`file:` is not followed by a path", "write such as `file:/etc/entrepot/upstream.key`")
    return found


def served_models(value: Any, path: Path, key: str | int, sheet: Sheet) -> Mapping[str, str]:
    """`model@version` → the upstream's own name for it."""
    if type(value) is not dict:
        raise Mistake(
            f"expected a table, found {describe(value)}", f'write `{key} = {{ "gpt-4o@2024-11-20" = "gpt-4o" }}`'
        )
    if not value:
        raise Mistake("no model is listed", "list at least one, or take the upstream out")
    inside, before = (*path, key), sheet.errors
    for ours, theirs in value.items():
        if not MODEL_VERSION.fullmatch(ours):
            sheet.mistake((*inside, ours), f"`{ours}` is not `model@version`", 'write such as `"gpt-4o@2024-11-20"`')
        elif type(theirs) is not str or not theirs.strip():
            sheet.mistake(
                (*inside, ours), "the upstream's name for the model is not a string", 'write such as `"gpt-4o"`'
            )
    if sheet.errors != before:
        raise Reported(dict(value))
    return dict(value)


MODEL = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"
VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MODEL_VERSION = re.compile(rf"{MODEL}@{VERSION}")


def header_name(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    found = text(value, path, key, sheet).lower()
    if not re.fullmatch(r"[a-z0-9!#$%&'*+.^_`|~-]+", found):
        raise Mistake(f"`{found}` is no header name", 'write such as `"x-forwarded-for"`')
    return found


def guid(value: Any, path: Path, key: str | int, sheet: Sheet) -> str:
    found = text(value, path, key, sheet).lower()
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", found):
        raise Mistake(
            f"`{found}` is not a GUID",
            'write five groups of hexadecimal digits: `"11111111-1111-1111-1111-111111111111"`',
        )
    return found


def micros(value: Any, _path: Path, key: str | int, _sheet: Sheet) -> int:
    if type(value) is not int or value < 0:
        raise Mistake(
            "expected a whole number of micros, 0 or more", f"write `{key} = 2_500_000` for 2.50 per million tokens"
        )
    return value
