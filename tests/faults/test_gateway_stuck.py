"""One worker that does nothing more: the others take edits, questions are answered, and a stop is a stop."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings
from harness import Account, Fleet, Upstream, World, ask, body_of, until


def test_a_stopped_worker_holds_up_nobody(fleet: Fleet, tmp_path: Path) -> None:
    first, second = Account("first"), Account("second")
    with simulated(Settings()) as sim:
        world = World(
            tmp_path / "world", [Upstream("one", sim.base_url)], [first], gateway="limits = { drain_s = 1 }\n"
        )
        world.write()
        with fleet.gateway(world, tmp_path / "home", "--workers", "2") as gateway:
            stuck, lively = gateway.workers()
            os.kill(stuck, signal.SIGSTOP)
            world.accounts.append(second)
            world.write()

            def taken() -> bool:
                """Connections go to either worker; those of the stopped one get no answer."""
                try:
                    return ask(gateway.data, body=body_of(), key=second.key, timeout_s=0.5).status == 200
                except TimeoutError:
                    return False

            until(taken, "the lively worker serves the new key")
            assert gateway.readiness()["problem"] is None
            assert lively in gateway.workers()
            started = time.monotonic()
            gateway.signal(signal.SIGTERM)
            assert gateway.wait() == 0
            assert time.monotonic() - started < 10


def test_counters_outlive_a_worker(fleet: Fleet, tmp_path: Path) -> None:
    account = Account("kanto")
    served = 'entrepot_calls_total{operation="chat",outcome="served",status="200"}'
    with simulated(Settings()) as sim:
        world = World(tmp_path / "world", [Upstream("one", sim.base_url)], [account])
        world.write()
        with fleet.gateway(world, tmp_path / "home") as gateway:
            for _ in range(3):
                assert ask(gateway.data, body=body_of(), key=account.key).status == 200
            assert gateway.metric(served) == 3
            (worker,) = gateway.workers()
            os.kill(worker, signal.SIGKILL)
            until(lambda: gateway.workers() not in ([], [worker]), "another worker is there")
            assert ask(gateway.data, body=body_of(), key=account.key).status == 200
            assert gateway.metric(served) == 4
