"""Unmodified SDKs against a running gateway: each sees what it would see of the real services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sdk_cases import CASES, expected

VERSIONS = {"openai 3": "3.", "openai 2": "2.54.0", "node": "6."}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sdk", VERSIONS)
def test_what_the_sdk_sees(results_of: Callable[[str], Any], sdk: str, name: str) -> None:
    case, at = CASES[name], list(CASES).index(name)
    for mode, made in results_of(sdk)["results"].items():
        found, wanted = made[at]["results"], {client: expected(case, client) for client in case.clients}
        for client, result in found.items():
            if isinstance(case.expected, dict) and isinstance(result, dict):
                found[client] = {key: result.get(key) for key in wanted[client]}
        assert found == wanted, mode
        assert made[at]["requests"] == {status: count * len(found) for status, count in case.requests.items()}, mode


@pytest.mark.parametrize("sdk", VERSIONS)
def test_the_sdk_is_the_one_meant(results_of: Callable[[str], Any], sdk: str) -> None:
    assert results_of(sdk)["version"].startswith(VERSIONS[sdk])
