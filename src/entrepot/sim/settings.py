"""What a simulated upstream does: settings for all answers, and a script of answers for requests that match."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from entrepot.errors import Code, Error
from entrepot.resources.model import Api

Count = Annotated[int, msgspec.Meta(ge=0)]
Status = Annotated[int, msgspec.Meta(ge=200, le=599)]

Fault = Literal["hang", "stall", "cut", "reset", "garbage"]
"""`hang`: no answer. `stall`: an answer that stops. `cut`, `reset`: one that breaks off. `garbage`: no HTTP at all."""


class Sse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How events are spelled. The defaults are what OpenAI sends; the rest has been seen elsewhere."""

    line_end: Literal["lf", "crlf", "cr"] = "lf"
    space: bool = True
    comments: bool = False
    event_lines: bool = False
    bom: bool = False
    done: bool = True
    split_bytes: Count = 0
    usage: Literal["asked", "last", "every", "never"] = "asked"


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests a rule is for: all given must hold. `path` may have `*`; `model` is the path's or the body's."""

    path: str = "*"
    model: str | None = None
    header: dict[str, str] = {}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scripted answer. What it leaves out is generated, or as the settings say. Milliseconds before each step."""

    match: Match = Match()
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    status: Status | None = None
    error: str | None = None
    headers: dict[str, str] = {}
    body: str | None = None
    json: dict[str, Any] | None = None
    text: str | None = None
    tokens: Count | None = None
    chunks: Count | None = None
    ttft_ms: Count | None = None
    pace_ms: Count | None = None
    fault: Fault | None = None
    after: Count = 0
    sse: Sse = Sse()


class Settings(msgspec.Struct, frozen=True):
    """`api` limits the path families served, `models` the models, `key` the credential; `None` takes any.

    `ttft_ms` is the time to the first byte, `pace_ms` the time between chunks. `keep` requests are kept for inspection.
    """

    api: Api | None = None
    models: tuple[str, ...] | None = None
    key: str | None = None
    tokens: int = 16
    chunks: int | None = None
    ttft_ms: float = 0
    pace_ms: float = 0
    status: int = 200
    fail_rate: float = 0.0
    seed: int = 1
    dimensions: int = 256
    idle_s: float = 3_600.0
    keep: int = 0
    script: tuple[Rule, ...] = ()


class _Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    answer: tuple[Rule, ...] = ()


def parse_script(text: str, name: str = "script") -> tuple[Rule, ...]:
    """The `[[answer]]` tables of a script. Raises `BAD_REQUEST` that says where it is wrong."""
    try:
        rules = msgspec.toml.decode(text, type=_Script).answer
    except (msgspec.DecodeError, ValueError) as exc:
        raise Error(Code.BAD_REQUEST, f"the script `{name}` is invalid: {exc}") from exc
    for number, rule in enumerate(rules, 1):
        if rule.error is not None and rule.error not in {code.label for code in Code}:
            raise Error(
                Code.BAD_REQUEST,
                f"the script `{name}` is invalid: answer {number}: `{rule.error}` is no error code; "
                "docs/errors.md lists them",
            )
    return rules


def load_script(path: Path) -> tuple[Rule, ...]:
    """As `parse_script`, from a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Error(Code.BAD_REQUEST, f"the script `{path}` cannot be read: {exc}") from exc
    return parse_script(text, str(path))
