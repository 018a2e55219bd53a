"""Usage in the words of models' answers, and in ours: the structs, which msgspec must find not compiled."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000_000)]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer. `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


class PromptDetails(msgspec.Struct):
    cached_tokens: Count | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class Reported(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Answer(msgspec.Struct):
    usage: Reported | None = None


class Chunk(msgspec.Struct):
    usage: Reported | None = None
    choices: list[msgspec.Raw] | None = None
