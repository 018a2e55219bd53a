"""The walk through the main job, on real inference: a real engine, `entrepot serve`, the stock SDK as the client.

It composes what users run and drives it as they would; nothing here is reachable from the gateway.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import openai
from rich.console import Console

from entrepot.config import Config
from entrepot.demo.house import GATEWAY, NOWHERE, SHANGHAI, TOKYO, House, management_walk, serving
from entrepot.engine import DEMO_MODEL, Engine
from entrepot.errors import Code, Error
from entrepot.gateway.admit import judge
from entrepot.gateway.call import Occasion
from entrepot.gateway.parent import address, listening
from entrepot.gateway.serve import Gateway
from entrepot.http1.server import Server
from entrepot.ledger.verify import find_key, prove_receipt
from entrepot.origin.resolve import Origin
from entrepot.resources.folder import read_world
from entrepot.snapshot import Compiled, Snapshot, publish_files
from entrepot.wire.problems import render_status

DEPLOYMENT = "assistant"
QUESTION = "What is an entrepot?"
MODEL = "entrepot-tiny"
BEFORE_MS = int(datetime(2024, 7, 8, 23, 59, 59, tzinfo=UTC).timestamp() * 1_000)
RECEIPT_S = 5.0

ACCOUNTS = {
    "robotics-ai": "DEMO_ROBOTICS_KEY",
    "meridian-direct": "DEMO_MERIDIAN_KEY",
    "li-lei-ai": "DEMO_LI_LEI_KEY",
}


class Choice(msgspec.Struct, frozen=True):
    """What stands behind the gateway: the engine with a model file, or a provider's real API. `data` is kept."""

    upstream: Literal["local", "openai", "azure"] = "local"
    model_file: Path = DEMO_MODEL
    upstream_model: str | None = None
    port: int = 8080
    admin_port: int = 9090
    management_port: int = 8443
    data: Path | None = None


class Step(msgspec.Struct, frozen=True):
    """One call of the walk. `form` chooses the SDK's class; `before` sends it to the data plane of 8 July 2024."""

    title: str
    who: str
    account: str
    address: str
    form: Literal["openai", "azure"] = "openai"
    stream: bool = False
    before: bool = False
    served: bool = True


STEPS = (
    Step(
        "An eligible enterprise in mainland China, through the cloud channel",
        "Yangtze Robotics Co., Ltd. (CN, enterprise with a business licence)",
        "robotics-ai",
        SHANGHAI,
        form="azure",
    ),
    Step("The same, streamed", "Yangtze Robotics Co., Ltd.", "robotics-ai", SHANGHAI, form="azure", stream=True),
    Step("A direct customer, from Japan", "Meridian Labs K.K. (JP)", "meridian-direct", TOKYO),
    Step(
        "The same direct customer's key, called from an unsupported territory",
        "Meridian Labs K.K. (JP)",
        "meridian-direct",
        SHANGHAI,
        served=False,
    ),
    Step(
        "The same call, one second before the rule took effect",
        "Meridian Labs K.K. (JP)",
        "meridian-direct",
        SHANGHAI,
        before=True,
    ),
    Step(
        "The eligible enterprise again, from a place that cannot be established",
        "Yangtze Robotics Co., Ltd.",
        "robotics-ai",
        NOWHERE,
        form="azure",
        served=False,
    ),
)


class Stage(msgspec.Struct, frozen=True):
    """Everything that the calls need: both data planes' addresses, the keys, and the operator's view of the world."""

    url: str
    admin_url: str
    url_before: str
    data: Path
    keys: dict[str, str]
    snapshot: Snapshot
    console: Console


async def demo(choice: Choice, *, once: bool) -> None:
    """Raises Error when the engine or `entrepot serve` cannot start, or when a step does not end as it should."""
    console = Console(highlight=False, soft_wrap=True)
    keys = {account: f"demo-{secrets.token_hex(16)}" for account in ACCOUNTS}
    environ = {**Config.load().environ, **{ACCOUNTS[account]: key for account, key in keys.items()}}
    with folder_of(choice) as folder, engine_for(choice, console) as base_url:
        config = Config(folder / "data", environ)
        house = House(config, folder / "world", console)
        write_world(house.world, choice, base_url, config)
        async with serving(house, (choice.port, choice.admin_port, choice.management_port)) as urls:
            await management_walk(house, urls["management"])
            snapshot = Compiled.whole(publish_files(read_world(house.world), config)).snapshot
            async with data_plane_of(snapshot, BEFORE_MS) as before:
                gateway = config.data / "gateways" / GATEWAY
                stage = Stage(urls["data plane"], urls["metrics"], before, gateway, keys, snapshot, console)
                number = itertools.count(4)
                receipts = [await walk(stage, next(number), step) for step in STEPS]
                await prove(stage, next(receipt for receipt in receipts if receipt))
                if not once:
                    await stay(stage, house)


@contextmanager
def folder_of(choice: Choice) -> Iterator[Path]:
    """Where everything is kept: as long as the demo, or for good."""
    if choice.data is None:
        with tempfile.TemporaryDirectory(prefix="entrepot-demo-") as folder:
            yield Path(folder)
        return
    choice.data.mkdir(parents=True, exist_ok=True)
    if any(choice.data.iterdir()):
        raise Error(Code.BAD_REQUEST, f"`{choice.data}` is not empty; name a folder that is, or none")
    yield choice.data.resolve()


@contextmanager
def engine_for(choice: Choice, console: Console) -> Iterator[str]:
    """The base URL of what will answer; a local engine lives as long as the context."""
    if choice.upstream != "local":
        yield ""
        return
    console.print(f"[bold]engine[/]   llama.cpp with {choice.model_file.name} …", end=" ")
    with Engine.start(choice.model_file, alias=MODEL) as engine:
        console.print(f"ready on {engine.base_url}")
        yield engine.base_url


def write_world(folder: Path, choice: Choice, base_url: str, config: Config) -> None:
    """The catalogue and the policy of the demo's world, with the blanks filled in; its clients come later."""
    text = (files("entrepot") / "demo_world" / "world.toml").read_text(encoding="utf-8")
    blanks = {
        '"LISTEN"': '"127.0.0.1:8080"',
        '"ADMIN"': '"127.0.0.1:9090"',
        'base_url = "ENGINE"\ncredential = "none"': upstream_lines(choice, base_url, config),
    }
    if choice.upstream != "local":
        name = choice.upstream_model or "gpt-4o-mini"
        blanks[f'"{MODEL}@1" = "{MODEL}"'] = f'"{MODEL}@1" = "{name}"'
        blanks['api = "openai"\n'] = f'api = "{choice.upstream}"\n'
    for blank, filling in blanks.items():
        text = text.replace(blank, filling)
    folder.mkdir()
    (folder / "world.toml").write_text(text, encoding="utf-8")
    pack = files("entrepot") / "demo_world" / "demo-cloud.toml"
    (folder / pack.name).write_bytes(pack.read_bytes())


def upstream_lines(choice: Choice, base_url: str, config: Config) -> str:
    if choice.upstream == "local":
        return f'base_url = "{base_url}"\ncredential = "none"'
    needed = {"openai": ("OPENAI_API_KEY",), "azure": ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT")}
    for name in needed[choice.upstream]:
        if not config.environ.get(name):
            raise Error(Code.NOT_READY, f"`--upstream {choice.upstream}` needs the environment variable `{name}`")
    if choice.upstream == "openai":
        return 'base_url = "https://api.openai.com/v1"\ncredential = "env:OPENAI_API_KEY"'
    endpoint = config.environ["AZURE_OPENAI_ENDPOINT"].rstrip("/")
    return f'base_url = "{endpoint}"\ncredential = "env:AZURE_OPENAI_API_KEY"\napi_version = "2024-10-21"'


@asynccontextmanager
async def data_plane_of(snapshot: Snapshot, at_ms: int) -> AsyncIterator[str]:
    """The same data plane in this process, for which it is always `at_ms`: the past cannot be had otherwise."""
    gateway = Gateway(clock_ms=lambda: at_ms)
    gateway.adopt(snapshot)
    server = Server(gateway.serve, render_status, snapshot.gateway.limits)
    listener = listening("127.0.0.1:0", 1)[0]
    await server.start(listener)
    try:
        yield f"http://{address(listener)}"
    finally:
        await server.drain(1.0)
        await gateway.close()


async def walk(stage: Stage, number: int, step: Step) -> str | None:
    """Take one step and print it. Returns its receipt's place; the data plane of the past records nothing."""
    out = stage.console
    out.print(f"[bold cyan]{number}. {step.title}[/]")
    account = stage.snapshot.accounts[step.account]
    origin = stage.snapshot.origins.resolve("127.0.0.1", step.address, account.egress)
    out.print(f"   who        {step.who}")
    source = origin.edition or origin.source
    out.print(f"   from       {origin.territory} ({step.address}; by {source})")
    out.print(f"   channel    {account.given.channel}, account {account.name}")
    out.print(f"   decided    {verdict(stage.snapshot, step, origin)}")
    try:
        region, told, headers = await ask(stage, step)
        served, shown = True, f"[green]answer     {told}[/]"
    except openai.APIStatusError as error:
        refused = isinstance(error, openai.PermissionDeniedError)
        region = "nowhere: nothing was sent upstream" if refused else "without success: the log says more"
        headers = error.response.headers
        served = False
        shown = f"[red]error      {type(error).__name__} {error.status_code}[/] {error.response.text.strip()}"
    out.print(f"   processed  {region}")
    receipt: str | None = headers.get("x-entrepot-receipt")
    out.print(f"   recorded   {receipt or 'not here: this is the past, tried out'}")
    out.print(f"   {shown}\n")
    if served is not step.served:
        raise Error(Code.INTERNAL, f"step {number} ended otherwise than it should")
    return receipt


async def prove(stage: Stage, place: str) -> None:
    """Fetch a receipt and check it as an outsider would: with the public key, without the gateway."""
    deadline = time.monotonic() + RECEIPT_S
    request = f"{stage.admin_url}/receipts/{place}"
    while (receipt := await asyncio.to_thread(fetched, request)) is None:
        if time.monotonic() > deadline:
            raise Error(Code.INTERNAL, f"no checkpoint covers `{place}` in time")
        await asyncio.sleep(0.2)
    file = stage.data / "receipt"
    file.write_bytes(receipt)
    (key,) = (stage.data / "keys").glob("*.vkey")
    stage.console.print(f"[bold cyan]An outsider checks the first receipt[/]\n   receipt    {request}")
    stage.console.print(f"   key        {key.read_text(encoding='utf-8').strip()}")
    stage.console.print(f"   [green]{prove_receipt(file, find_key(str(key)))[0]}[/]\n")


def fetched(url: str) -> bytes | None:
    """What the gateway's own admin listener answers; None while it is not there."""
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310 - a URL that the gateway printed
            return bytes(answer.read())
    except HTTPError:
        return None


def verdict(snapshot: Snapshot, step: Step, origin: Origin) -> str:
    """What the operator can see, and the client is not told: the rules that determined the decision."""
    account = snapshot.accounts[step.account]
    deployment = account.deployments[DEPLOYMENT]
    at_ms = BEFORE_MS if step.before else int(datetime.now(UTC).timestamp() * 1_000)
    decision = judge(snapshot.program, account, deployment, Occasion(at_ms, origin, "chat"))[0]
    at = datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{'permit' if decision.permit else 'refuse'} by {', '.join(decision.rules) or 'no rule'} at {at}"


async def ask(stage: Stage, step: Step) -> tuple[str, str, Mapping[str, str]]:
    """The region that the answer names, its text, its headers. Raises what the SDK raises."""
    async with client_for(stage, step) as client:
        completions = client.chat.completions.with_raw_response
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        if not step.stream:
            raw = await completions.create(model=DEPLOYMENT, messages=messages, temperature=0, max_tokens=120)
            answer = raw.parse().choices[0].message.content or ""
            return raw.headers.get("x-ms-region", ""), answer.strip(), raw.headers
        streamed = await completions.create(
            model=DEPLOYMENT, messages=messages, temperature=0, max_tokens=120, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in streamed.parse() if chunk.choices]
        region = f"{streamed.headers.get('x-ms-region', '')} (in {len(pieces)} pieces)"
        return region, "".join(pieces).strip(), streamed.headers


def client_for(stage: Stage, step: Step) -> openai.AsyncOpenAI:
    url = stage.url_before if step.before else stage.url
    headers = {"X-Forwarded-For": step.address}
    if step.form == "azure":
        return openai.AsyncAzureOpenAI(
            azure_endpoint=url, api_key=stage.keys[step.account], api_version="2024-10-21", default_headers=headers
        )
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=stage.keys[step.account], default_headers=headers)


async def stay(stage: Stage, house: House) -> None:
    """Print calls to copy, and serve until Ctrl-C."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):  # before it is told of: one that comes as they change is lost
        loop.add_signal_handler(signum, stopped.set)
    body = '{"model":"assistant","messages":[{"role":"user","content":"What is a receipt?"}]}'
    out = stage.console
    out.print("[bold]Everything keeps running. Try it:[/]\n")
    for account, where, place in (("robotics-ai", SHANGHAI, "served"), ("meridian-direct", SHANGHAI, "refused")):
        out.print(f"# {account} from {where}: {place}")
        out.print(
            f"curl -s {stage.url}/v1/chat/completions -H 'Authorization: Bearer {stage.keys[account]}' \\\n"
            f"  -H 'X-Forwarded-For: {where}' -H 'Content-Type: application/json' -d '{body}'\n"
        )
    out.print("# with the stock Azure CLI (pip install azure-cli)")
    out.print(f'eval "$(entrepot az-setup --data {house.config.data})"')
    out.print("az cognitiveservices account list -o table\n")
    out.print(f"# edit {house.world}, then put it into force; who serves and who is served changes within a second")
    out.print(f"entrepot apply {house.world} --data {house.config.data}\n\nCtrl-C ends everything.")
    await stopped.wait()
