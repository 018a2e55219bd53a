"""Calls of every usual kind through a gateway, for a compiler that is told by them what runs often (hatch_build.py).

    PYTHONPATH=src python tools/exercise.py FOLDER

FOLDER holds the package whose compiled modules count; they write their counts when the gateway ends. Nothing is
measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from entrepot.sim.server import simulated
from entrepot.sim.settings import Settings

CALLS = 6_000
"""With each number of workers: one counts limits in its memory, several share a table."""
TOGETHER = 32
WORDS = "Which declarations are due when forty robot arms go on from a bonded warehouse to another port? " * 8
QUOTA = (
    "{ requests_per_minute = 100_000_000, tokens_per_minute = 10_000_000_000, in_flight = 10_000, "
    'budgets = [{ amount_micros = 1_000_000_000_000, period = "month" }] }'
)
DEPLOYMENTS = (("gpt-4o", "gpt-4o"), ("embed", "text-embedding-3-small"))
WORLD = """
[gateway]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
territory = "JP"
log_name = "training"
access_log = "on"

[[site]]
network = "127.0.0.0/8"
territory = "JP"
network_class = "business"

[[operator]]
name = "harbour"
legal_name = "Harbour Cloud K.K."
territory = "JP"

[[region]]
name = "japaneast"
territory = "JP"
zones = ["apac"]
operator = "harbour"

[[provider]]
name = "openai"

[[model]]
name = "gpt-4o"
version = "1"
prices = [{ from = 2024-11-20T00:00:00Z, input_micros = 2_500_000, output_micros = 10_000_000 }]

[policy]
packs = ["entrepot:base", "entrepot:openai-api"]
"""
UPSTREAM = """
[[upstream]]
name = "%s"
provider = "openai"
region = "japaneast"
api = "openai"
base_url = "%s/v1"
credential = "none"
models = { "gpt-4o@1" = "gpt-4o", "text-embedding-3-small@1" = "embedder" }
"""
ACCOUNT = """
[[organization]]
name = "{name}"
legal_name = "{name} K.K."
territory = "{territory}"
entity_type = "enterprise"
registration = {{ kind = "corporate_number", number = "0000000000000" }}
kyc = "approved"
screening = "clear"

[[subscription]]
id = "{subscription}"
organization = "{name}"

[[account]]
name = "{name}"
subscription = "{subscription}"
resource_group = "training"
location = "japaneast"
channel = "direct"
operator = "harbour"
keys = {{ key1 = "sha256:{digest}" }}
{limits}
"""
DEPLOYMENT = """
[[account.deployment]]
name = "{name}"
model = "{model}"
version = "1"
sku = "GlobalStandard"
capacity = 1_000_000
"""


def key_of(account: str) -> str:
    return f"sk-training-{account}"


def account(number: int, name: str, territory: str, limits: str = "") -> str:
    deployments = [DEPLOYMENT.format(name=each, model=model) for each, model in DEPLOYMENTS]
    return "".join(
        [
            ACCOUNT.format(
                name=name,
                territory=territory,
                subscription=f"00000000-0000-4000-8000-{number:012}",
                digest=hashlib.sha256(key_of(name).encode()).hexdigest(),
                limits=limits,
            ),
            *deployments,
        ]
    )


def lay_out(folder: Path, well: str, failing: str) -> None:
    folder.mkdir()
    limited = f"limits = {QUOTA}\nkey_limits = {QUOTA}"
    parts = [
        *(WORLD, UPSTREAM % ("well", well), UPSTREAM % ("failing", failing)),
        *(account(1, "plain", "JP"), account(2, "limited", "JP", limited), account(3, "refused", "CN")),
    ]
    (folder / "world.toml").write_text("".join(parts), encoding="utf-8")


@contextlib.contextmanager
def gateway(package: Path, folder: Path, workers: int) -> Iterator[str]:
    """The address of its data plane. It ends in good order, or its counts would be lost."""
    command = [sys.executable, "-m", "entrepot", "gateway", "--world", str(folder / "world")]
    command += ["--data", str(folder / f"data-{workers}"), "--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": str(package)}
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        found = re.search(r" on (http\S+) ", process.stdout.readline())
        try:
            if found is None:
                raise SystemExit(f"the gateway did not start: {log.read_text()[-2000:]}")
            yield found[1]
        finally:
            process.terminate()
            process.wait(60)


async def call(client: httpx.AsyncClient, number: int) -> str:
    """One of a hundred kinds, by its number: who called, and the status of the answer."""
    kind = number * 37 % 100
    name = "plain" if kind < 60 else "limited" if kind < 95 else "refused" if kind < 99 else "nobody"
    path, headers = "/v1/chat/completions", {"authorization": f"Bearer {key_of(name)}"}
    body: dict[str, object] = {"model": "gpt-4o", "messages": [{"role": "user", "content": WORDS[: 40 + number % 700]}]}
    if kind % 4 == 0:
        path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
        headers = {"api-key": key_of(name)}
    if kind % 8 == 1:
        body |= {"stream": True, "user": f"user-{number % 50}"}
    elif kind % 16 == 2:
        path, body = "/v1/embeddings", {"model": "embed", "input": WORDS[:200]}
    answer = await client.post(path, json=body, headers=headers)
    return f"{name} {answer.status_code}"


async def load(url: str) -> Counter[str]:
    numbers = iter(range(CALLS))
    found: Counter[str] = Counter()

    async def one_after_the_other() -> None:
        for number in numbers:
            found[await call(client, number)] += 1

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(one_after_the_other() for _ in range(TOGETHER)))
    return found


def main() -> None:
    package = Path(sys.argv[1]).resolve()
    with (
        tempfile.TemporaryDirectory(prefix="entrepot-training-") as home,
        simulated(Settings(tokens=40, pace_ms=1)) as well,
        simulated(Settings(tokens=40, fail_rate=0.02)) as failing,
    ):
        folder = Path(home)
        lay_out(folder / "world", well.base_url, failing.base_url)
        for workers in (1, 2):
            with gateway(package, folder, workers) as url:
                found = asyncio.run(load(url))
            print(f"{workers} workers: {dict(found)}", flush=True)
            if not {"plain 200", "limited 200", "refused 403", "nobody 401"} <= found.keys():
                raise SystemExit("the calls were not answered as they should be")


if __name__ == "__main__":
    main()
