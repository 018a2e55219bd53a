"""A remembered verdict is what judging anew would give, at every instant and in every order of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from entrepot.config import Config
from entrepot.gateway.admit import Verdicts, announced, judge
from entrepot.gateway.call import Occasion
from entrepot.origin.resolve import Origin
from entrepot.resources.load import read_world
from entrepot.snapshot import Compiled, Snapshot, publish_files
from worlds import DEMO

DAY_MS = 86_400_000
CUTOFF_MS, EXPIRY_MS = 1_720_483_200_000, 1_798_675_200_000
"""The provider's last day in unsupported territories ends, 2024-07-09; a licence of the demo world, 2026-12-31."""
ORIGINS = [Origin(territory, "business", attested=False, source="site") for territory in ("JP", "CN", "unknown")]

instants = st.sampled_from([CUTOFF_MS, EXPIRY_MS]).flatmap(
    lambda cut: (
        st.integers(cut - 40 * DAY_MS, cut + 40 * DAY_MS)
        | st.sampled_from([cut - 30 * DAY_MS - 1, cut - 30 * DAY_MS, cut - 1, cut, cut + 1])
    )
)


@cache
def snapshot() -> Snapshot:
    filled = {b"LISTEN": b"127.0.0.1:0", b"ADMIN": b"127.0.0.1:0", b"ENGINE": b"http://127.0.0.1:1/v1"}
    files = read_world(DEMO)
    for word, value in filled.items():
        files = {name: data.replace(word, value) for name, data in files.items()}
    keys = {found: f"{found}-0123456789abcdef" for found in re.findall(r"env:(\w+)", b"".join(files.values()).decode())}
    return Compiled.whole(publish_files(files, Config(Path(), keys))).snapshot


@given(st.lists(st.tuples(instants, st.sampled_from(ORIGINS), st.sampled_from(["chat", "embeddings"])), max_size=12))
def test_a_verdict_is_that_of_its_instant(asked: list[tuple[int, Origin, str]]) -> None:
    of = snapshot()
    verdicts = Verdicts(of)
    for at_ms, origin, operation in asked:
        for account in of.accounts.values():
            for deployment in account.deployments.values():
                occasion = Occasion(at_ms, origin, operation)
                verdict = verdicts.on(account, deployment, occasion)
                decisions = judge(of.program, account, deployment, occasion)
                assert verdict.decisions == decisions
                assert verdict.origin is origin
                permitted = tuple(
                    each for each, decision in zip(deployment.candidates, decisions, strict=True) if decision.permit
                )
                if not permitted:
                    assert verdict.admission is None
                    continue
                assert verdict.admission is not None
                assert verdict.admission.permitted == permitted
                assert verdict.admission.refused_from_ms == announced(of, account, permitted, occasion)
