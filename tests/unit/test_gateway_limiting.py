"""What a call is taken to use before it did."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from entrepot.gateway.limiting import MOST_TOKENS, SMALL, tokens_in, whole


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("0", 0),
        ("999999999", 999_999_999),
        # However a number is written: what is larger than any limit is not left to the model's default.
        ("1000000000", MOST_TOKENS),
        ("9" * 5_000, MOST_TOKENS),
        ("1e400", MOST_TOKENS),
        ("1e6", 1_000_000),
        ("1000.0", 1_000),
        ("0.5", 1),
        ("-1", None),
        ("null", None),
        ("true", None),
        ('"5"', None),
        ("[5]", None),
    ],
)
def test_a_number_of_tokens_as_json_may_have_it(given: str, tokens: int | None) -> None:
    assert whole(msgspec.Raw(given.encode())) == tokens
    assert whole(None) is None


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * SMALL}},
        {"type": "input_audio", "input_audio": {"data": "A" * SMALL, "format": "wav"}},
    ],
)
def test_images_and_sounds_are_no_text(part: dict[str, Any]) -> None:
    content = [{"type": "text", "text": "What is this about?"}, part]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    assert tokens_in(body) == 5
    assert tokens_in(json.dumps({"messages": [{"content": "A" * SMALL}]}).encode()) > SMALL // 4
