"""From a request and the settings to a plan: status, head, what to write, when, and where to break it off."""

from __future__ import annotations

import hashlib

import msgspec

from entrepot.errors import Code, Error
from entrepot.http1.message import Request, render_headers
from entrepot.sim.answers import prompt_of, tell
from entrepot.sim.asked import Asked, Place
from entrepot.sim.embeddings import embed
from entrepot.sim.render import Event, Kind, events, whole
from entrepot.sim.settings import Fault, Rule, Settings
from entrepot.wire.forms import Form
from entrepot.wire.models import Listed, item, listing
from entrepot.wire.problems import redact, render

_MODELS = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")
_BY_STATUS = {
    401: Code.INVALID_KEY,
    403: Code.ACCESS_DENIED,
    404: Code.DEPLOYMENT_NOT_FOUND,
    429: Code.RATE_LIMITED,
    500: Code.INTERNAL,
    502: Code.UPSTREAM_FAULT,
    503: Code.NO_TARGET,
    504: Code.UPSTREAM_TIMEOUT,
}
# What a real provider adds, so that a test sees what of it a gateway lets through.
_PROVIDERS_HEADERS = {
    Form.OPENAI: {
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "x-request-id": "req_00000000000000000000000000000000",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "6ms",
        "set-cookie": "__cf_bm=simulated; path=/",
    },
    Form.AZURE: {
        "apim-request-id": "00000000-0000-0000-0000-000000000000",
        "x-request-id": "00000000-0000-0000-0000-000000000000",
        "x-ms-region": "Simulated",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-remaining-tokens": "999999",
    },
}


class Plan(msgspec.Struct, frozen=True):
    """A whole answer has a `body`, a stream `events`. `after` counts events before the fault, or bytes of a body."""

    status: int
    head: bytes
    body: bytes
    events: tuple[Event, ...] | None = None
    ttft_s: float = 0.0
    pace_s: float = 0.0
    fault: Fault | None = None
    after: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""


def failed(error: Error, form: Form, rule: Rule | None = None) -> Plan:
    """An answer that is an error in the wording of the path's form."""
    return Plan(error.code.status, _head(form, "application/json", rule), render(error, form))


def planned(request: Request, settings: Settings, rule: Rule, place: Place, asked: Asked) -> Plan:
    """Raises Error for what the simulated service would refuse."""
    model = place.deployment or asked.model or ""
    status = rule.status or settings.status
    if rule.error is not None:
        code = next(code for code in Code if code.label == rule.error)
        plan = failed(Error(code, "simulated", subject=model), place.form, rule)
        plan = plan if rule.status is None else msgspec.structs.replace(plan, status=rule.status)
    elif rule.json is not None or rule.body is not None:
        body = msgspec.json.encode(rule.json) if rule.json is not None else (rule.body or "").encode()
        plan = Plan(status, _head(place.form, "application/json", rule), body)
    elif status >= 400:
        code = _BY_STATUS.get(status, Code.BAD_REQUEST if status < 500 else Code.INTERNAL)
        subject = redact(request.headers.get("authorization", "")) if code is Code.INVALID_KEY else model
        body = render(Error(code, f"simulated status {status}", subject=subject), place.form)
        plan = Plan(status, _head(place.form, "application/json", rule), body)
    elif place.operation.startswith("models"):
        plan = Plan(status, _head(place.form, "application/json", rule), _models(settings, place))
    else:
        plan = _generated(request, settings, rule, place, asked)
    return msgspec.structs.replace(
        plan,
        ttft_s=(settings.ttft_ms if rule.ttft_ms is None else rule.ttft_ms) / 1_000,
        pace_s=(settings.pace_ms if rule.pace_ms is None else rule.pace_ms) / 1_000,
        fault=rule.fault,
        after=rule.after,
        model=model,
    )


def _generated(request: Request, settings: Settings, rule: Rule, place: Place, asked: Asked) -> Plan:
    model = place.deployment or asked.model
    if model is None:
        raise Error(Code.MODEL_REQUIRED, "you must provide a model parameter", param="model")
    if settings.models is not None and model not in settings.models:
        raise Error(Code.DEPLOYMENT_NOT_FOUND, "no such model", subject=model)
    if place.operation == "embeddings":
        body, prompt_tokens = embed(asked, model, settings.dimensions)
        head = _head(place.form, "application/json", rule)
        return Plan(rule.status or settings.status, head, body, prompt_tokens=prompt_tokens)
    prompt = prompt_of(asked, place.operation)
    told = tell(asked, prompt, settings.tokens if rule.tokens is None else rule.tokens, rule.text)
    seed = hashlib.sha256(request.body).digest()
    kind = Kind(place.operation == "chat/completions", model, seed, place.form is not Form.OPENAI)
    status = rule.status or settings.status
    if not asked.stream:
        head = _head(place.form, "application/json", rule)
        body = whole(kind, told, rule.sse)
        return Plan(status, head, body, prompt_tokens=told.prompt_tokens, completion_tokens=told.completion_tokens)
    chunks = settings.chunks if rule.chunks is None else rule.chunks
    head = _head(place.form, "text/event-stream; charset=utf-8", rule)
    stream = events(kind, told, chunks, rule.sse, wants_usage=asked.wants_usage)
    return Plan(status, head, b"", stream, prompt_tokens=told.prompt_tokens)


def _models(settings: Settings, place: Place) -> bytes:
    listed = [Listed(name, name, "2026-01-01", "simulated") for name in settings.models or _MODELS]
    if place.operation == "models":
        return listing(listed, place.form)
    wanted = place.operation.removeprefix("models/")
    for each in listed:
        if wanted in {each.name, each.base_id}:
            return item(each, place.form)
    raise Error(Code.DEPLOYMENT_NOT_FOUND, "no such model", subject=wanted)


def _head(form: Form, content_type: str, rule: Rule | None) -> bytes:
    headers = {"content-type": content_type, **_PROVIDERS_HEADERS[Form.OPENAI if form is Form.OPENAI else Form.AZURE]}
    for name, value in rule.headers.items() if rule is not None else ():
        headers[name.lower()] = value
    return render_headers(headers.items())
