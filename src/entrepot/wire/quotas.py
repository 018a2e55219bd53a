"""How limits read in answers: the six `x-ratelimit-*` headers, and the texts of a 429, in both families' words."""

from __future__ import annotations

from urllib.parse import parse_qs

import msgspec

from entrepot.wire.forms import Form

_OPERATIONS = {"chat": "ChatCompletions_Create", "completions": "Completions_Create", "embeddings": "Embeddings_Create"}
_OPENAI_KINDS = {
    "requests": "requests per min (RPM)",
    "tokens": "tokens per min (TPM)",
    "in_flight": "requests at one time",
}
_AZURE_KINDS = {"requests": "call rate limit", "tokens": "token rate limit", "in_flight": "limit of calls at one time"}
_MORE = "Visit https://platform.openai.com/account/rate-limits to learn more."
_INCREASE = (
    "Please go here: https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
)


class Exceeded(msgspec.Struct, frozen=True):
    """What a call did not fit into. `kind` is `requests`, `tokens` or `in_flight`; `scope` is whose limit it is.

    `wait_ms` is -1 where waiting does not help.
    """

    kind: str
    scope: str
    deployment: str
    model: str
    limit: int
    remaining: int
    asked: int
    wait_ms: int

    @property
    def retry_after_ms(self) -> int | None:
        return None if self.wait_ms < 0 else max(1, self.wait_ms)


def message(told: Exceeded, form: Form, operation: str, query: str) -> str:
    wait_ms = told.retry_after_ms
    if wait_ms is None:
        return _too_large(told, form)
    if form is Form.OPENAI:
        whose = "" if told.scope == "deployment" else f" of this {told.scope}"
        used = max(0, told.limit - told.remaining)
        return (
            f"Rate limit reached for {told.deployment}{whose} on {_OPENAI_KINDS[told.kind]}: Limit {told.limit}, "
            f"Used {used}, Requested {told.asked}. Please try again in {duration(wait_ms)}. {_MORE}"
        )
    begin = (
        f"Requests to the {_OPERATIONS.get(operation, operation)} Operation under Azure OpenAI API version "
        f"{_version(form, query)} have exceeded"
    )
    after = f"Please retry after {seconds(wait_ms)} seconds."
    if told.scope == "deployment":
        return f"{begin} {_AZURE_KINDS[told.kind]} of your current OpenAI S0 pricing tier. {after} {_INCREASE}"
    return f"{begin} the {_AZURE_KINDS[told.kind]} of this {told.scope}. {after}"


def _too_large(told: Exceeded, form: Form) -> str:
    if form is Form.OPENAI:
        whose = "" if told.scope == "deployment" else f" of this {told.scope}"
        return (
            f"Request too large for {told.deployment}{whose} on {_OPENAI_KINDS[told.kind]}: Limit {told.limit}, "
            f"Requested {told.asked}. The input or output tokens must be reduced in order to run successfully. {_MORE}"
        )
    return (
        f"The request asks for {told.asked} tokens and can never fit into the {_AZURE_KINDS[told.kind]} of "
        f"{told.limit} of this {told.scope}; shorten the prompt or ask for fewer tokens."
    )


def amount_line(kind: str, amount: int) -> str:
    """The header line that is the same in all answers, and the next one up to its value."""
    return f"x-ratelimit-limit-{kind}: {amount}\r\nx-ratelimit-remaining-{kind}: "


def head(form: Form, requests: tuple[str, int, int], tokens: tuple[str, int, int]) -> bytes:
    """Header lines; of each limit its `amount_line`, what remains of it now, and milliseconds until it is whole.

    Azure counts the reset in whole seconds, OpenAI writes a duration.
    """
    if form is Form.OPENAI:
        resets = duration(requests[2]), duration(tokens[2])
    else:
        resets = str(-(-requests[2] // 1_000)), str(-(-tokens[2] // 1_000))
    return (
        f"{requests[0]}{requests[1]}\r\nx-ratelimit-reset-requests: {resets[0]}\r\n"
        f"{tokens[0]}{tokens[1]}\r\nx-ratelimit-reset-tokens: {resets[1]}\r\n"
    ).encode()


def duration(ms: int) -> str:
    """As OpenAI writes it: `12ms`, `1.5s`, `6m0s`."""
    if ms < 1_000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    text = f"{rest // 1_000}.{rest % 1_000:03}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{text}" if minutes else text


def seconds(ms: int) -> int:
    """In whole seconds, as `retry-after` has it: at least 1."""
    return max(1, -(-ms // 1_000))


def _version(form: Form, query: str) -> str:
    if form is Form.AZURE_V1:
        return "v1"
    return parse_qs(query).get("api-version", ["v1"])[0]
