"""Unmodified SDKs against a running gateway: each sees what it would see of the real services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sdk_cases import CASES, expected, planned

RUNS = ("openai 3 sync", "openai 3 async", "openai 2 sync", "openai 2 async", "node node")
VERSIONS = {"openai 3": "3.", "openai 2": "2.54.0", "node": "6."}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("run", RUNS)
def test_what_the_sdk_sees(results_of: Callable[[str], Any], run: str, name: str) -> None:
    case, (sdk, _, mode) = CASES[name], run.rpartition(" ")
    made = zip(planned({}), results_of(sdk)["results"][mode], strict=True)
    found = {call["client"]: result for call, result in made if call["case"] == name}
    wanted = {}
    for client in case.clients:
        wanted[client] = {"result": expected(case, client), "requests": case.requests}
        if isinstance(case.expected, dict) and isinstance(found[client]["result"], dict):
            seen = found[client]["result"]
            found[client]["result"] = {key: seen.get(key) for key in wanted[client]["result"]}
    assert found == wanted


@pytest.mark.parametrize("sdk", VERSIONS)
def test_the_sdk_is_the_one_meant(results_of: Callable[[str], Any], sdk: str) -> None:
    assert results_of(sdk)["version"].startswith(VERSIONS[sdk])
