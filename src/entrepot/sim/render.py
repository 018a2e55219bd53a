"""A simulated answer as bytes: whole, or as the events of a stream, in OpenAI's or Azure's wording."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import msgspec

from entrepot.sim.answers import Choice, Told
from entrepot.sim.settings import Sse

CREATED_S = 1_767_225_600  # 2026-01-01T00:00:00Z, always the same: so are the answers
_SAFE = {"filtered": False, "severity": "safe"}
_FILTERS = {"hate": _SAFE, "self_harm": _SAFE, "sexual": _SAFE, "violence": _SAFE}
_LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class Event(msgspec.Struct, frozen=True):
    """Bytes to write at once, and the completion tokens in them."""

    data: bytes
    tokens: int


class Kind(msgspec.Struct, frozen=True):
    """What all parts of one answer have in common. `annotated` adds Azure's content filter results."""

    chat: bool
    model: str
    seed: bytes
    annotated: bool

    def envelope(self, suffix: str = "") -> dict[str, Any]:
        digest = hashlib.sha256(self.seed).hexdigest()
        prefix, noun = ("chatcmpl-", "chat.completion") if self.chat else ("cmpl-", "text_completion")
        return {
            "id": prefix + digest[:29],
            "object": noun + (suffix if self.chat else ""),
            "created": CREATED_S,
            "model": self.model,
            "system_fingerprint": "fp_" + digest[:10],
        }


def usage_of(told: Told, completion: int | None = None) -> dict[str, Any]:
    completion = told.completion_tokens if completion is None else completion
    return {
        "prompt_tokens": told.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": told.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def whole(kind: Kind, told: Told, sse: Sse) -> bytes:
    """The body of an answer that is not streamed."""
    body = kind.envelope()
    body["choices"] = [_choice(kind, index, choice) for index, choice in enumerate(told.choices)]
    if kind.annotated:
        body["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _FILTERS}]
    if sse.usage != "never":
        body["usage"] = usage_of(told)
    return msgspec.json.encode(body)


def _choice(kind: Kind, index: int, choice: Choice) -> dict[str, Any]:
    text = "".join(choice.pieces)
    rendered: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": choice.finish}
    if not kind.chat:
        rendered["text"] = text
    elif choice.tool is None:
        rendered["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        call = {"id": "call_0", "type": "function", "function": {"name": choice.tool, "arguments": text}}
        rendered["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind.annotated:
        rendered["content_filter_results"] = _FILTERS
    return rendered


def events(kind: Kind, told: Told, chunks: int | None, sse: Sse, *, wants_usage: bool) -> tuple[Event, ...]:
    """A stream, spelled as `sse` says. `chunks` is the most content chunks of one choice."""
    bodies = _bodies(kind, told, chunks, sse)
    if sse.usage == "last":
        bodies[-1][0]["usage"] = usage_of(told)
    elif sse.usage == "asked" and wants_usage:
        bodies = [({**body, "usage": None}, tokens) for body, tokens in bodies]
        bodies.append(({**kind.envelope(".chunk"), "choices": [], "usage": usage_of(told)}, 0))
    spelled = [Event(_spell(msgspec.json.encode(body), sse), tokens) for body, tokens in bodies]
    if sse.done:
        spelled.append(Event(_spell(b"[DONE]", sse), 0))
    if sse.bom:
        spelled[0] = Event(b"\xef\xbb\xbf" + spelled[0].data, spelled[0].tokens)
    return _split(spelled, sse.split_bytes) if sse.split_bytes else tuple(spelled)


def _bodies(kind: Kind, told: Told, chunks: int | None, sse: Sse) -> list[tuple[dict[str, Any], int]]:
    bodies: list[tuple[dict[str, Any], int]] = []
    if kind.annotated:
        empty = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
        filtered = [{"prompt_index": 0, "content_filter_results": _FILTERS}]
        bodies.append(({**empty, "prompt_filter_results": filtered}, 0))
    envelope = kind.envelope(".chunk")
    sent = 0
    for index, choice in enumerate(told.choices):
        for parts, tokens in _deltas(kind, choice, chunks):
            sent += tokens
            one: dict[str, Any] = {"index": index, **parts}
            if kind.annotated:
                one["content_filter_results"] = _FILTERS
            body = {**envelope, "choices": [one]}
            if sse.usage == "every":
                body["usage"] = usage_of(told, sent)
            bodies.append((body, tokens))
    return bodies


def _split(spelled: list[Event], size: int) -> tuple[Event, ...]:
    """The same bytes in blocks of one size; a block has the tokens of the events that end in it."""
    stream = b"".join([event.data for event in spelled])
    tokens = [0] * (len(stream) // size + 1)
    end = 0
    for event in spelled:
        end += len(event.data)
        tokens[(end - 1) // size] += event.tokens
    return tuple(Event(stream[at : at + size], tokens[at // size]) for at in range(0, len(stream), size))


def _deltas(kind: Kind, choice: Choice, chunks: int | None) -> list[tuple[dict[str, Any], int]]:
    """The parts of one choice and the tokens in each."""
    total = len(choice.pieces)
    count = min(chunks or total, total)
    cuts = [total * at // count for at in range(count + 1)] if count else []
    texts = [("".join(choice.pieces[a:b]), b - a) for a, b in pairwise(cuts)]
    if not kind.chat:
        parts = [({"text": text, "logprobs": None, "finish_reason": None}, size) for text, size in texts]
        return [*parts, ({"text": "", "logprobs": None, "finish_reason": choice.finish}, 0)]
    if choice.tool is None:
        deltas: list[tuple[dict[str, Any], int]] = [({"role": "assistant", "content": "", "refusal": None}, 0)]
        deltas += [({"content": text}, size) for text, size in texts]
    else:
        call = {"index": 0, "id": "call_0", "type": "function", "function": {"name": choice.tool, "arguments": ""}}
        deltas = [({"role": "assistant", "content": None, "tool_calls": [call]}, 0)]
        deltas += [({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}, size) for text, size in texts]
    begun = [({"delta": delta, "logprobs": None, "finish_reason": None}, size) for delta, size in deltas]
    return [*begun, ({"delta": {}, "logprobs": None, "finish_reason": choice.finish}, 0)]


def _spell(data: bytes, sse: Sse) -> bytes:
    end = _LINE_ENDS[sse.line_end]
    before = (b": ping" + end + end if sse.comments else b"") + (b"event: message" + end if sse.event_lines else b"")
    return b"%bdata:%b%b%b%b" % (before, b" " if sse.space else b"", data, end, end)
