"""Killed at any instant, a gateway that follows a control plane starts again from what it had, and never from less."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from control_plane import ControlPlane
from entrepot.config import Config
from entrepot.gateway.control import ControlSource
from entrepot.gateway.enrolment import enrol, enrolled, read_token
from entrepot.snapshot import Published, Revision, publish_files
from harness import BASE_PACK, Account, Upstream, World

FOLLOWER = Path(__file__).with_name("follow_control.py")
ROUNDS = 6


def world(n: int) -> Published:
    """Now and then more than clients changes, so that wholes are written as well as changes."""
    accounts = [Account(f"a{number}") for number in range(n % 5 + 1)]
    text = World(Path(), [Upstream("u", f"http://u{n // 7}.example")], accounts).text()
    files = {"world.toml": text.encode(), "packs/base.toml": BASE_PACK.encode()}
    return publish_files(files, Config(Path(), {"UPSTREAM_KEY": "k"}), Revision(1, n))


async def on_disk(data: Path) -> Published:
    known = enrolled(data)
    assert known is not None
    return await ControlSource(known, data, fresh=False).first()


@pytest.mark.parametrize("seed", [1])
def test_whenever_it_is_killed(tmp_path: Path, seed: int) -> None:
    chance, plane, stop, n = random.Random(seed), ControlPlane(), threading.Event(), 1
    plane.publish(world(1))
    plane.start()
    asyncio.run(enrol(plane.url, read_token(plane.token("gw-1")), tmp_path))
    worlds = {1: world(1)}

    def publish() -> None:
        nonlocal n
        while not stop.wait(0.004):
            n += 1
            worlds[n] = world(n)
            plane.publish(worlds[n])
            del plane.published[:-20]

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        before = 0
        for _ in range(ROUNDS):
            process = subprocess.Popen([sys.executable, str(FOLLOWER), str(tmp_path)], stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == b"following\n"
            stop.wait(0.1 + chance.random() * 0.5)
            process.kill()
            process.wait()
            process.stdout.close()
            held = asyncio.run(on_disk(tmp_path))
            assert held.revision.n > before
            assert set(held.world.accounts) == set(worlds[held.revision.n].world.accounts)
            assert held.world.upstreams == worlds[held.revision.n].world.upstreams
            before = held.revision.n
    finally:
        stop.set()
        publishing.join()
        plane.kill()
