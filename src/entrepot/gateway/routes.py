"""Maps a request target to an operation, the wire form of its answers, and the account and deployment that it names."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote

import msgspec

from entrepot.errors import Code, Error
from entrepot.wire.forms import Form, form_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")

MODELS = "models"
MODEL = "model"
PROBE = "probe"
POSTED = {"chat/completions": "chat", "completions": "completions", "embeddings": "embeddings"}
_BY_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/(.+)")


class Route(msgspec.Struct, frozen=True):
    """`operation` is the policy's word for a decided call, or `models`/`model` for the lists, which are not decided."""

    form: Form
    operation: str
    account: str | None = None
    deployment: str | None = None
    model: str | None = None


_PLAIN = {
    ("POST", prefix + path): Route(form, operation)
    for prefix, form in (("/v1/", Form.OPENAI), ("/openai/v1/", Form.AZURE_V1))
    for path, operation in POSTED.items()
} | {(method, path): Route(Form.OPENAI, PROBE) for method in ("GET", "HEAD") for path in ("/healthz", "/readyz")}


def route(method: str, path: str, query: str) -> Route:
    """Raises Error NOT_FOUND or METHOD_NOT_ALLOWED. The account that a host names is the caller's affair."""
    plain = _PLAIN.get((method, path))
    if plain is not None:
        return plain
    asked = f"{method} {path}"
    account, rest = _split_account(path, asked)
    form = form_of(rest)
    operation, deployment, model = _operation(method, rest, form, asked)
    if form is Form.AZURE and not _API_VERSION.fullmatch(_api_version(query)):
        raise Error(Code.NOT_FOUND, "no api-version of the form YYYY-MM-DD", subject=asked)
    return Route(form, operation, account, deployment, model)


def _split_account(path: str, asked: str) -> tuple[str | None, str]:
    """Some SDKs add `/openai` to an endpoint that ends in a slash: there, and only there, two slashes are one."""
    if not path.startswith("/accounts/"):
        return None, path[1:] if path.startswith("//openai/") else path
    name, slash, rest = path[len("/accounts/") :].partition("/")
    return _segment(name, asked), slash + rest.removeprefix("/")


def _operation(method: str, path: str, form: Form, asked: str) -> tuple[str, str | None, str | None]:
    by_deployment = _BY_DEPLOYMENT.fullmatch(path) if form is Form.AZURE else None
    if by_deployment is not None:
        operation = POSTED.get(by_deployment[2])
        if operation is not None:
            _require(method, "POST", path)
            return operation, _segment(by_deployment[1], asked), None
    elif form is Form.AZURE:
        return _models(method, path, path.removeprefix("/openai/"), asked)
    else:
        tail = path.removeprefix("/v1/" if form is Form.OPENAI else "/openai/v1/")
        if tail != path and tail in POSTED:
            _require(method, "POST", path)
            return POSTED[tail], None, None
        if tail != path:
            return _models(method, path, tail, asked)
    raise Error(Code.NOT_FOUND, "no such path", subject=asked)


def _models(method: str, path: str, tail: str, asked: str) -> tuple[str, str | None, str | None]:
    if tail == "models":
        _require(method, "GET", path)
        return MODELS, None, None
    if tail.startswith("models/"):
        _require(method, "GET", path)
        return MODEL, None, _segment(tail[len("models/") :], asked)
    raise Error(Code.NOT_FOUND, "no such path", subject=asked)


def _require(method: str, expected: str, path: str) -> None:
    if method != expected and not (expected == "GET" and method == "HEAD"):
        raise Error(
            Code.METHOD_NOT_ALLOWED,
            f"Not allowed to {method} on {path} (HINT: Perhaps you meant to use {expected}?)",
            subject="GET, HEAD" if expected == "GET" else expected,
        )


def _segment(text: str, asked: str) -> str:
    """One decoded path segment; a name of another alphabet, or an encoded slash, names nothing that exists."""
    name = unquote(text)
    if not _NAME.fullmatch(name):
        raise Error(Code.NOT_FOUND, f"`{text}` is not a name", subject=asked)
    return name


def _api_version(query: str) -> str:
    values = parse_qs(query).get("api-version", [])
    return values[0] if len(values) == 1 else ""
