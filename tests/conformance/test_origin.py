"""The cases of `origin/*.toml`: peer, header and trusted proxies → the client's address, or unknown."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from entrepot.origin.address import client_address
from entrepot.origin.networks import networks

FILES = [
    tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(__file__).parent.glob("origin/*.toml"))
]
CASES = [
    pytest.param(file, case, id=f"{file.get('name')}: {case['about']}".encode("ascii", "replace").decode())
    for file in FILES
    for case in file["case"]
]


@pytest.mark.parametrize(("file", "case"), CASES)
def test_client_address(file: dict[str, Any], case: dict[str, str]) -> None:
    found = client_address(case["peer"], case.get("header"), networks(file["trusted"]), file.get("name"))
    assert (None if found is None else str(found)) == case.get("want")
