"""A slice of `kill_control.py`; and the other way round: the database is killed while a control plane goes on."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import kill_control

from databases import Postgres, cluster
from entrepot.errors import Error
from entrepot.management.control import Control
from worlds import open_control

KILLS = 3


def test_a_control_plane_is_killed_again_and_again(tmp_path: Path) -> None:
    said = asyncio.run(kill_control.run(tmp_path, 4))
    assert "all well" in said


def test_postgresql_is_killed_and_restarted(tmp_path: Path) -> None:
    with cluster() as server:
        asyncio.run(_outlive(server, tmp_path))


async def _outlive(server: Postgres, data: Path) -> None:
    url = await server.create()
    await kill_control.prepare(data, url)
    control = await open_control(data, url)
    answered: dict[int, str] = {}
    writing = [asyncio.create_task(_write(control, answered)) for _ in range(3)]
    for _ in range(KILLS):
        await asyncio.sleep(0.3 + random.random() / 2)
        before = len(answered)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.start)
        for _ in range(1_000):
            if len(answered) > before + 5:
                break
            await asyncio.sleep(0.02)
        assert len(answered) > before, "it did not come back"
    for each in writing:
        each.cancel()
    await asyncio.wait(writing)
    published = control.world
    await control.close()
    await kill_control.look(data, url, answered)
    again = await open_control(data, url)
    assert sorted(again.world.accounts, key=str) == sorted(published.accounts, key=str)
    await again.close()


async def _write(control: Control, answered: dict[int, str]) -> None:
    while True:
        try:
            recorded = await kill_control.change_something(control, 0)
        except Error:
            await asyncio.sleep(0.05)
        else:
            assert recorded.n not in answered
            answered[recorded.n] = recorded.id
