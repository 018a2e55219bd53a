"""What a call is taken to use before it did."""

from __future__ import annotations

import msgspec
import pytest

from entrepot.gateway.limiting import MOST_TOKENS, whole


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
