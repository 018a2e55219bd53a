"""What a request asks of a simulated model: the operation by its path, and the few fields that change the answer."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from entrepot.errors import Code, Error
from entrepot.http1.message import Request
from entrepot.resources.model import Api
from entrepot.wire.forms import Form, form_of

_OPENAI = re.compile(r"/v1/(.+)")
_AZURE_V1 = re.compile(r"/openai/v1/(.+)")
_AZURE = re.compile(r"/openai/(?:deployments/(?P<deployment>[^/]+)/)?(.+)")
_OPERATIONS = frozenset({"chat/completions", "completions", "embeddings"})

Positive = Annotated[int, msgspec.Meta(ge=1)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Asked(msgspec.Struct, frozen=True):
    """The body. Unknown fields are ignored, as engines do."""

    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt: Any = None
    input: Any = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=16_384)] | None = None
    encoding_format: str | None = None

    @property
    def limit_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class Place(msgspec.Struct, frozen=True):
    """Where a path leads. `operation` is `models`, `models/{id}` or one of the three that generate."""

    form: Form
    operation: str
    deployment: str | None = None


def place_of(request: Request, api: Api | None) -> Place:
    """Raises `NOT_FOUND` for a path of no form, or of the form that `api` leaves out; `METHOD_NOT_ALLOWED`."""
    path, method = request.path, request.method
    missing = Error(Code.NOT_FOUND, "no such path", subject=f"{method} {path}")
    form = form_of(path)
    found = {Form.OPENAI: _OPENAI, Form.AZURE: _AZURE, Form.AZURE_V1: _AZURE_V1}[form].fullmatch(path)
    if found is None or (api is not None and (api == "openai") != (form is Form.OPENAI)):
        raise missing
    operation = found.group(found.lastindex or 1)
    deployment = found.groupdict().get("deployment")
    if form is Form.AZURE and "api-version=" not in request.query:
        raise missing
    lists = operation == "models" or operation.startswith("models/")
    if not lists and operation not in _OPERATIONS:
        raise missing
    if lists == (deployment is not None) and form is Form.AZURE:
        raise missing
    allowed = "GET" if lists else "POST"
    if method != allowed:
        raise Error(Code.METHOD_NOT_ALLOWED, f"not allowed to {method} on {path}", subject=allowed)
    return Place(form, operation, deployment)


_asked = msgspec.json.Decoder(Asked)


def asked_of(body: bytes) -> Asked:
    """Raises `INVALID_BODY`."""
    try:
        return _asked.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Error(Code.INVALID_BODY, f"the body cannot be used: {exc}") from exc
