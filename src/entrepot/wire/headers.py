"""Which headers of an upstream's answer reach the client. What is not named stays here: ids, limits, cookies, hops."""

from __future__ import annotations

from collections.abc import Mapping

# Its own ids, regions and limits describe the operator's account at the provider, not the client's at Entrepot.
RELAYED = frozenset(
    {
        "content-language",
        "content-type",
        "openai-processing-ms",
        "openai-version",
        "retry-after",
        "retry-after-ms",
        "x-ms-rai-invoked",
        "x-should-retry",
    }
)


def relayed(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The fields to relay, in their order. Names are lower-case."""
    return [(name, value) for name, value in headers.items() if name in RELAYED]
