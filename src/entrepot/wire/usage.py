"""Token usage as models report it, from streamed chunks and whole answers. Never raises on what an upstream sent."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from entrepot.wire.reported import Answer, Chunk, Reported, Usage

LONGEST_USAGE = 2048
BYTES_PER_TOKEN = 4
TEXTS = frozenset(
    {"messages", "prompt", "input", "choices", "message", "content", "text", "tool_calls", "function", "arguments"}
)

_answer: Final = msgspec.json.Decoder(Answer)
_chunk: Final = msgspec.json.Decoder(Chunk)
_any: Final = msgspec.json.Decoder()


def usage_of(body: bytes) -> Usage | None:
    """The usage of a whole JSON answer; `None` when it reports none, or none that makes sense."""
    try:
        reported = _answer.decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _usage(reported)


def usage_in_part(body: bytes) -> Usage | None:
    """The usage in an answer that broke off, if it had arrived whole. A quote in a JSON string is escaped."""
    start = body.rfind(b'"usage"')
    part = body[start : start + LONGEST_USAGE] if start >= 0 else b""
    end = -1
    while (end := part.find(b"}", end + 1)) >= 0:
        usage = usage_of(b"{%b}" % part[: end + 1])
        if usage is not None:
            return usage
    return None


def estimated(body: bytes) -> int:
    """The tokens in the text of a request or of a whole answer, about: one for four bytes. 0 for what is no JSON."""
    try:
        size = _size(_any.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return -(-size // BYTES_PER_TOKEN)


def _size(value: Any) -> int:
    """Of the text in what models read and write."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, dict):
        return sum(_size(value[name]) for name in TEXTS if name in value)
    return 0


def usage_of_chunk(data: bytes) -> tuple[Usage | None, bool]:
    """The usage of one streamed chunk, and whether that chunk holds nothing else (its `choices` empty or absent)."""
    try:
        chunk = _chunk.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, False
    usage = _usage(chunk.usage)
    return usage, usage is not None and not chunk.choices


def _usage(reported: Reported | None) -> Usage | None:
    if reported is None or (reported.prompt_tokens is None and reported.completion_tokens is None):
        return None
    prompt, completion = reported.prompt_tokens_details, reported.completion_tokens_details
    return Usage(
        prompt=reported.prompt_tokens or 0,
        completion=reported.completion_tokens or 0,
        cached=(prompt.cached_tokens or 0) if prompt is not None else 0,
        reasoning=(completion.reasoning_tokens or 0) if completion is not None else 0,
    )
