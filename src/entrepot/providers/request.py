"""What every call to one upstream has in common: request targets and header block, rendered once per snapshot."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote, urlsplit

import msgspec

from entrepot.http1.client import Endpoint
from entrepot.http1.message import render_headers
from entrepot.resources.model import Upstream

OPERATION_PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
}


class Prepared(msgspec.Struct, frozen=True):
    """`targets` maps an operation to the request target; `head` ends with CRLF and holds the operator's credential."""

    endpoint: Endpoint
    head: bytes
    targets: dict[str, str]

    def __repr__(self) -> str:
        return f"Prepared({self.endpoint.host}, credential hidden)"


def endpoint_of(upstream: Upstream) -> Endpoint:
    url = urlsplit(upstream.base_url)
    scheme: Literal["http", "https"] = "https" if url.scheme == "https" else "http"
    port = url.port or (443 if scheme == "https" else 80)
    return Endpoint(scheme, url.hostname or "", port, upstream.proxy.url if upstream.proxy else None)


def prepare(upstream: Upstream, model: str, credential: str | None) -> Prepared:
    """Render the calls to `upstream` for the model that it calls `model`; `credential` None sends none."""
    endpoint = endpoint_of(upstream)
    headers = [
        ("host", _host(endpoint)),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("user-agent", "entrepot"),
    ]
    if credential is not None:
        headers.append(_credential_header(upstream, credential))
    base = urlsplit(upstream.base_url).path.rstrip("/")
    targets = {operation: base + _target(upstream, path, model) for operation, path in OPERATION_PATHS.items()}
    return Prepared(endpoint, render_headers(headers), targets)


def _host(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    default = 443 if endpoint.scheme == "https" else 80
    return host if endpoint.port == default else f"{host}:{endpoint.port}"


def _credential_header(upstream: Upstream, credential: str) -> tuple[str, str]:
    if upstream.api == "azure":
        return ("api-key", credential)
    return ("authorization", f"Bearer {credential}")


def _target(upstream: Upstream, path: str, model: str) -> str:
    if upstream.api == "azure":
        deployment = quote(model, safe="")
        return f"/openai/deployments/{deployment}{path}?api-version={upstream.api_version}"
    return path
