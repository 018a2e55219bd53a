"""The databases that a suite runs over: each test that asks for `url` runs on both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import Postgres, cluster


@pytest.fixture(scope="module")
def _postgres() -> Iterator[Postgres]:
    with cluster() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/control.db"
    server: Postgres = request.getfixturevalue("_postgres")
    return asyncio.run(server.create())
