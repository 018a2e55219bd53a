"""Limits in answers, word for word in both families."""

from __future__ import annotations

import msgspec
import pytest

from entrepot.wire.forms import Form
from entrepot.wire.quotas import Exceeded, amount_line, duration, head, message

QUERY = "api-version=2024-10-21"
TOLD = Exceeded("tokens", "deployment", "chat", "gpt-4o", limit=30_000, remaining=1_000, asked=2_000, wait_ms=1_500)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (12, "12ms"),
        (1_000, "1s"),
        (1_500, "1.5s"),
        (7_662, "7.662s"),
        (360_000, "6m0s"),
        (61_050, "1m1.05s"),
    ],
)
def test_durations_are_openai_s(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_what_a_refused_client_reads() -> None:
    assert message(TOLD, Form.OPENAI, "chat", "") == (
        "Rate limit reached for chat on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try "
        "again in 1.5s. Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    assert message(TOLD, Form.AZURE, "chat", QUERY) == (
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded "
        "token rate limit of your current OpenAI S0 pricing tier. Please retry after 2 seconds. Please go here: "
        "https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
    )
    key = msgspec.structs.replace(TOLD, kind="requests", scope="key")
    assert message(key, Form.AZURE_V1, "embeddings", "") == (
        "Requests to the Embeddings_Create Operation under Azure OpenAI API version v1 have exceeded the call rate "
        "limit of this key. Please retry after 2 seconds."
    )


@pytest.mark.parametrize("form", Form)
def test_what_never_fits_says_so_and_names_no_time(form: Form) -> None:
    told = msgspec.structs.replace(TOLD, asked=40_000, wait_ms=-1)
    assert told.retry_after_ms is None
    text = message(told, form, "chat", QUERY)
    assert "40000" in text
    assert "30000" in text
    assert "again" not in text
    assert "after" not in text


def test_resets_are_seconds_for_azure_and_durations_for_openai() -> None:
    limits = (amount_line("requests", 600), 99, 1_001), (amount_line("tokens", 100_000), 1, 59_999)
    assert b"x-ratelimit-reset-requests: 2\r\n" in head(Form.AZURE, *limits)
    assert b"x-ratelimit-reset-tokens: 60\r\n" in head(Form.AZURE_V1, *limits)
    assert head(Form.OPENAI, *limits) == (
        b"x-ratelimit-limit-requests: 600\r\nx-ratelimit-remaining-requests: 99\r\n"
        b"x-ratelimit-reset-requests: 1.001s\r\nx-ratelimit-limit-tokens: 100000\r\n"
        b"x-ratelimit-remaining-tokens: 1\r\nx-ratelimit-reset-tokens: 59.999s\r\n"
    )
