"""What every SDK must see, as data: one case is a scenario of `openai_calls.py` with its answer or its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

TEXT = "Häfen, 港 und 倉庫: an entrepot 🚢 is a port."
"""What the simulated models say, four characters a token."""
TOKENS = [5, 11]

FORMS = ("openai", "azure", "v1")
BOTH = ("openai", "azure")
PATHS = ("openai-account", "azure-account", "v1-account")
EVERYWHERE = (*FORMS, *PATHS, "azure-deployment")
_ENVELOPE = {"openai": "openai", "openai-account": "openai"}
_TERRITORY = {"code": "unsupported_country_region_territory", "message": "Country, region, or territory not supported"}


class Case(NamedTuple):
    """`expected` is compared key by key if it is a dict; `on_azure` is laid over it on Azure's paths.

    `requests` are the answers that the gateway gave each client by status, the SDK's own retries among them.
    """

    scenario: str
    expected: Any
    on_azure: Mapping[str, Any] = {}
    model: str = "gpt-4o"
    clients: tuple[str, ...] = FORMS
    account: str = "kanto"
    retries: int = 2
    requests: Mapping[str, int] = {"200": 1}


def refused(raised: str, status: int, code: str | None, azure: str | None = None, **more: Any) -> Case:
    """A refusal: seen as the SDK's own class, and not tried again although the SDK would."""
    expected = {
        "raised": raised,
        "status": status,
        "code": code,
        "request_id": True,
        "x-should-retry": "false",
        "retry-after": None,
        **more.pop("says", {}),
    }
    more.setdefault("scenario", "chat")
    return Case(expected=expected, on_azure={"code": azure or code}, requests={str(status): 1}, **more)


def failed(raised: str, status: int, code: str | None, azure: str | None = None, **more: Any) -> Case:
    """What came from upstream, or did not: the SDK may try again, here at once or not at all."""
    retries = more.setdefault("retries", 0)
    expected = {"raised": raised, "status": status, "code": code, "request_id": True, **more.pop("says", {})}
    more.setdefault("scenario", "chat")
    return Case(expected=expected, on_azure={"code": azure or code}, requests={str(status): 1 + retries}, **more)


_SAID = {"text": TEXT, "finish": "stop"}
_STREAMED = {"text": TEXT, "finish": ["stop"], "usage": []}
_WITH_USAGE = {**_STREAMED, "usage": [[*TOKENS, 0]]}
_CALLED = {"name": "weather", "arguments": {"city": "a", "unit": "celsius"}}
_VECTORS = {"sizes": [8, 8], "same": True, "lengths": [1.0, 1.0], "counted": True}
_LISTED = [
    *("az-cut", "az-embed", "az-filtered", "az-gpt-4o", "az-limited", "banned", "cut", "dead", "embed", "failing"),
    *("gpt-4o", "hanging", "limited", "locked", "overloaded", "spent", "tiny", "too-long"),
]
_CUT = {"text": "Häfen, 港", "finish": [], "usage": [], "raised": "APIError", "code": "upstream_cut"}
_BROKE_OFF = "the model's answer broke off; what was received so far is incomplete"
_RECEIPT = "A receipt is proof that a decision was recorded"

SERVED = {
    "chat": Case("chat", {**_SAID, "usage": TOKENS, "request_id": True}, clients=EVERYWHERE),
    "chat, Azure behind": Case("chat", {**_SAID, "usage": TOKENS}, model="az-gpt-4o", clients=BOTH),
    "headers": Case(
        "raw",
        {"request_id": "openai", "same": True, "region": "Japan East", "content_type": "application/json"},
        {"request_id": "azure"},
        clients=(*FORMS, *PATHS),
    ),
    "headers, Azure behind": Case(
        "raw",
        {"request_id": "openai", "region": "Japan East"},
        {"request_id": "azure"},
        model="az-gpt-4o",
        clients=BOTH,
    ),
    "stream": Case("streamed", _STREAMED, clients=EVERYWHERE),
    "stream, Azure behind": Case("streamed", _STREAMED, model="az-gpt-4o", clients=BOTH),
    "stream with usage": Case("streamed_usage", _WITH_USAGE),
    "stream with usage, Azure behind": Case("streamed_usage", _WITH_USAGE, model="az-gpt-4o", clients=BOTH),
    "stream helper": Case("stream_helper", {**_SAID, "deltas": TEXT}, clients=BOTH),
    "stream helper, Azure behind": Case("stream_helper", {**_SAID, "deltas": TEXT}, model="az-gpt-4o", clients=BOTH),
    "tools": Case("tools", {**_CALLED, "finish": "tool_calls"}),
    "tools streamed": Case("tools_streamed", {**_CALLED, "finish": "tool_calls"}),
    "tools streamed, Azure behind": Case(
        "tools_streamed", {**_CALLED, "finish": "tool_calls"}, model="az-gpt-4o", clients=BOTH
    ),
    "structured output": Case("schema", {"city": "a", "unit": "celsius"}, clients=BOTH),
    "structured output, parsed": Case("parsed", {"permitted": False, "channel": "direct", "rules": []}, clients=BOTH),
    "completions": Case("completions", _SAID, clients=BOTH),
    "completions streamed": Case("completions_streamed", {**_SAID, "usage": 0}, clients=BOTH),
    "embeddings": Case("embeddings", _VECTORS, model="embed", clients=(*FORMS, *PATHS), requests={"200": 2}),
    "embeddings, Azure behind": Case("embeddings", _VECTORS, model="az-embed", clients=BOTH, requests={"200": 2}),
    "models": Case("models", _LISTED, clients=("openai", "v1", "openai-account", "v1-account")),
    "base models": Case("models", [f"{name}-2024-11-20" for name in _LISTED], clients=("azure", "azure-account")),
    "a model": Case("retrieve", "gpt-4o", clients=("openai", "v1", "openai-account", "v1-account")),
    "a base model": Case("retrieve", "gpt-4o-2024-11-20", model="gpt-4o-2024-11-20", clients=("azure",)),
    "cloud channel": Case("chat", _SAID, account="cloudy"),
    "real engine": Case("told", _RECEIPT, model="tiny", clients=BOTH),
    "real engine streams": Case(
        "stream_told", {"text": _RECEIPT, "finish": ["stop"], "usage": 1}, model="tiny", clients=BOTH
    ),
    "real engine embeds": Case(
        "embeddings",
        {"sizes": [192, 192], "same": True, "counted": True},
        model="tiny",
        clients=("openai",),
        requests={"200": 2},
    ),
}

REFUSED = {
    "wrong key": refused("AuthenticationError", 401, "invalid_api_key", "401", account="nobody"),
    "no key": refused("AuthenticationError", 401, None, "401", scenario="keyless"),
    "key of another account": refused(
        "AuthenticationError", 401, "invalid_api_key", "401", account="cloudy", clients=PATHS
    ),
    "origin": refused("PermissionDeniedError", 403, _TERRITORY["code"], says=_TERRITORY, account="abroad"),
    "origin, streaming": refused(
        "PermissionDeniedError", 403, _TERRITORY["code"], says=_TERRITORY, account="abroad", scenario="streamed"
    ),
    "organization's territory": refused("PermissionDeniedError", 403, _TERRITORY["code"], account="far"),
    "nothing permits": refused("PermissionDeniedError", 403, "access_denied", account="pending"),
    "suspended": refused("PermissionDeniedError", 403, "account_suspended", account="halted"),
    "a rule's own code": refused("PermissionDeniedError", 403, "licence_required", account="unlicensed"),
    "upstream's territory refusal": refused("PermissionDeniedError", 403, _TERRITORY["code"], model="banned"),
    "no such deployment": refused("NotFoundError", 404, "model_not_found", "DeploymentNotFound", model="gpt-9"),
    "no such model": refused(
        "NotFoundError", 404, "model_not_found", "DeploymentNotFound", model="gpt-9", scenario="retrieve"
    ),
    "no such path": refused("NotFoundError", 404, None, "404", scenario="elsewhere", clients=(*FORMS, *PATHS)),
    "ambiguous body": refused("BadRequestError", 400, "ambiguous_field", "BadRequest", scenario="ambiguous"),
}

FAILED = {
    "bad request upstream": failed(
        "BadRequestError", 400, "context_length_exceeded", says={"message": "too long"}, model="too-long", retries=0
    ),
    "content filter": failed(
        "BadRequestError",
        400,
        "content_filter",
        says={"inner": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}},
        model="az-filtered",
        clients=BOTH,
    ),
    "limit upstream": failed(
        "RateLimitError", 429, "rate_limit_exceeded", says={"retry-after": "7"}, model="limited", retries=2
    ),
    "limit upstream, Azure behind": failed(
        "RateLimitError", 429, "429", says={"retry-after": "7"}, model="az-limited", clients=BOTH, retries=1
    ),
    "limit upstream, streaming": failed(
        "RateLimitError", 429, "rate_limit_exceeded", model="limited", scenario="streamed"
    ),
    "spent upstream": failed("RateLimitError", 429, "insufficient_quota", model="spent"),
    "fault upstream": failed("InternalServerError", 500, "internal", model="failing", retries=2),
    "overloaded upstream": failed("InternalServerError", 503, "no_target", model="overloaded"),
    "operator's credential": failed("InternalServerError", 502, "upstream_fault", "BadGateway", model="locked"),
    "dead upstream": failed("InternalServerError", 502, "upstream_fault", "BadGateway", model="dead"),
    "silent upstream": failed("InternalServerError", 504, "upstream_timeout", "GatewayTimeout", model="hanging"),
    "cut answer": failed("InternalServerError", 502, "upstream_fault", "BadGateway", model="cut"),
    "cut stream": Case("streamed", {**_CUT, "message": _BROKE_OFF}, {"code": "BadGateway"}, model="cut"),
    "cut stream, Azure behind": Case(
        "streamed", {**_CUT, "text": "Häfe"}, {"code": "BadGateway"}, model="az-cut", clients=BOTH
    ),
}

CASES = {**SERVED, **REFUSED, **FAILED}


def planned(keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """All cases as the plan has them, in their order."""
    return [
        {
            "clients": case.clients,
            "key": keys.get(case.account, f"sk-{case.account}-of-no-account"),
            "scenario": case.scenario,
            "model": case.model,
            "retries": case.retries,
        }
        for case in CASES.values()
    ]


def expected(case: Case, client: str) -> Any:
    if isinstance(case.expected, dict) and not client.startswith("openai"):
        return {**case.expected, **case.on_azure}
    return case.expected
