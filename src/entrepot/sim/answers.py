"""What a simulated model says: the same request, the same answer. One token is one piece of text."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from entrepot.errors import Code, Error
from entrepot.sim.asked import Asked
from entrepot.sim.schema import instance_of

# 64 words, some in several bytes a character, so that what splits them is noticed.
_VOCABULARY = """
the a ship harbour cargo crane quay tide customs licence ledger receipt clerk port goods bonded store lantern
rope sail anchor barge pilot chart manifest tariff seal weigh bridge dock lading stamp duty rule region model token
answer question open closed north south east west inward outward before after since until with under over from
Häfen quai número Überfahrt 港 倉庫 порт 🚢 and
"""
WORDS = tuple(_VOCABULARY.split())


class Choice(msgspec.Struct, frozen=True):
    """One answer: the pieces of its text, or of a tool call's arguments when `tool` names one."""

    pieces: tuple[str, ...]
    finish: str
    tool: str | None = None


class Told(msgspec.Struct, frozen=True):
    choices: tuple[Choice, ...]
    prompt_tokens: int
    completion_tokens: int


def tell(asked: Asked, prompt: str, tokens: int, text: str | None) -> Told:
    """Choices for a chat or completion. `tokens` is the length without a limit in the request."""
    seed = hashlib.sha256(prompt.encode(errors="surrogatepass")).digest()
    tool = _tool(asked)
    choices = []
    for index in range(asked.n or 1):
        if tool is not None:
            pieces = _pieces(msgspec.json.encode(instance_of(tool.get("parameters") or {})).decode())
        elif (schema := _schema(asked)) is not None:
            pieces = _pieces(msgspec.json.encode(instance_of(schema)).decode())
        elif text is not None:
            pieces = _pieces(text)
        else:
            pieces = _words(seed + index.to_bytes(2, "big"), tokens)
        limit = asked.limit_tokens
        finish = "stop" if tool is None else "tool_calls"
        if limit is not None and len(pieces) > limit:
            pieces, finish = pieces[:limit], "length"
        choices.append(Choice(tuple(pieces), finish, str(tool.get("name")) if tool is not None else None))
    return Told(tuple(choices), count_tokens(prompt), sum(len(choice.pieces) for choice in choices))


def count_tokens(text: str) -> int:
    """About four bytes a token, at least one."""
    return len(text.encode(errors="surrogatepass")) // 4 + 1


def prompt_of(asked: Asked, operation: str) -> str:
    """All text of the request. Raises `INVALID_BODY` when there is none."""
    if operation == "chat/completions":
        if not asked.messages:
            raise Error(Code.INVALID_BODY, "`messages` must have at least one message", param="messages")
        return "\n".join(_text(message.get("content")) for message in asked.messages)
    if asked.prompt is None:
        raise Error(Code.INVALID_BODY, "`prompt` is required", param="prompt")
    return _text(asked.prompt)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return str(content.get("text") or "")
    if isinstance(content, list):
        return " ".join(_text(part) for part in content)
    return "" if content is None else str(content)


def _words(seed: bytes, count: int) -> list[str]:
    drawn = hashlib.shake_256(seed).digest(count)
    return [WORDS[byte & 63] if at == 0 else f" {WORDS[byte & 63]}" for at, byte in enumerate(drawn)]


def _pieces(text: str) -> list[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def _tool(asked: Asked) -> dict[str, Any] | None:
    """The function to call: the one named, or the first when a call is required."""
    functions = [tool["function"] for tool in asked.tools or () if isinstance(tool.get("function"), dict)]
    choice = asked.tool_choice
    if choice == "required":
        return next(iter(functions), None)
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        return next((each for each in functions if each.get("name") == choice["function"].get("name")), None)
    return None


def _schema(asked: Asked) -> Any:
    wanted = asked.response_format or {}
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    if wanted.get("type") == "json_schema" and isinstance(wanted.get("json_schema"), dict):
        return wanted["json_schema"].get("schema") or {}
    return None
