"""A rule that is yet to take effect: the calls that it will refuse are told so before, the others are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings
from harness import BASE_PACK, Account, Fleet, Upstream, World, ask, body_of, replace

RULE = """
[[rule]]
id = "EMBEDDINGS-END"
effect = "forbid"
from = {instant}
when = {{ operation = "embeddings" }}
code = "embeddings_end"
reason = {{ en = "embeddings are no longer offered" }}
"""


@pytest.mark.parametrize(("days", "told"), [(10, True), (40, False)])
def test_a_refusal_to_come_is_told_within_the_days_of_the_world(
    fleet: Fleet, tmp_path: Path, days: int, told: bool
) -> None:
    instant = (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    with simulated(Settings()) as sim:
        world = World(tmp_path / "world", [Upstream("one", sim.base_url)], [Account("kanto")])
        world.write()
        with fleet.gateway(world, tmp_path / "home") as gateway:
            replace(world.folder / "packs" / "base.toml", BASE_PACK + RULE.format(instant=instant))
            gateway.revision(2)
            embeddings = ask(gateway.data, "/v1/embeddings", body_of(input="x"), key=world.accounts[0].key)
            chat = ask(gateway.data, "/v1/chat/completions", body_of(), key=world.accounts[0].key)
    assert (embeddings.status, chat.status) == (200, 200)
    assert embeddings.headers.get("x-entrepot-refused-from") == (instant if told else None)
    assert "x-entrepot-refused-from" not in chat.headers
