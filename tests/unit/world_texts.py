"""A small valid world and a way to change it, for the tests of the world format."""

from __future__ import annotations

from collections.abc import Mapping

from entrepot.resources.load import Loaded, load_world
from entrepot.resources.problems import Problem, WorldInvalid

SUBSCRIPTION = "11111111-1111-1111-1111-111111111111"
HASH = "sha256:" + "0a" * 32

WORLD = f"""\
[gateway]
listen = "127.0.0.1:0"
territory = "JP"
origin_header = "x-forwarded-for"
trusted_proxies = ["127.0.0.1/32"]

[[site]]
network = "10.20.0.0/16"
territory = "JP"

[[operator]]
name = "harbour"
legal_name = "Harbour Cloud K.K."
territory = "JP"

[[region]]
name = "japaneast"
territory = "JP"
zones = ["apac"]
operator = "harbour"

[[region]]
name = "island"
territory = "SG"
operator = "harbour"

[[provider]]
name = "openai"

[[upstream]]
name = "jp-1"
provider = "openai"
region = "japaneast"
api = "openai"
base_url = "https://jp.example/v1"
credential = "env:JP1_KEY"
models = {{ "gpt-4o@2024-11-20" = "gpt-4o-prod" }}

[[organization]]
name = "yangtze-robotics"
legal_name = "Yangtze Robotics Co., Ltd."
territory = "CN"
entity_type = "enterprise"
owners = [
    {{ name = "Delta", territory = "CN", share = 60.0 }},
    {{ name = "Isle", territory = "SG", share = 20, of = "Delta" }},
]

[[subscription]]
id = "{SUBSCRIPTION}"
organization = "yangtze-robotics"

[[account]]
name = "robotics-ai"
subscription = "{SUBSCRIPTION}"
resource_group = "rg-ai"
location = "japaneast"
channel = "cloud"
operator = "harbour"
residency = ["apac", "JP"]
egress = [{{ network = "203.0.113.0/24", territory = "CN" }}]
keys = {{ key1 = "{HASH}" }}

[[account.deployment]]
name = "gpt-4o"
model = "gpt-4o"
version = "2024-11-20"
sku = "GlobalStandard"

[policy]
packs = ["entrepot:base"]
"""

SECOND_ACCOUNT = f"""\
[[account]]
name = "second"
subscription = "{SUBSCRIPTION}"
resource_group = "rg-ai"
location = "japaneast"
channel = "direct"
operator = "harbour"
keys = {{ key1 = "sha256:{"1b" * 32}" }}
"""


def changed(old: str, new: str) -> str:
    assert WORLD.count(old) == 1, old
    return WORLD.replace(old, new)


def load(*texts: str, **files: bytes) -> Loaded:
    """The world of `texts` (`world.toml`, `more-1.toml`, …) and other files; `a__b` stands for `a/b.toml`."""
    named = {f"more-{i}.toml" if i else "world.toml": text.encode() for i, text in enumerate(texts)}
    others = {f"{name.replace('__', '/')}.toml": data for name, data in files.items()}
    return load_world({**named, **others}, {"base": b"base", "openai-api": b"openai"})


def problems(*texts: str, **files: bytes) -> list[Problem]:
    """Errors and warnings of a world, valid or not."""
    try:
        return list(load(*texts, **files).warnings)
    except WorldInvalid as invalid:
        return list(invalid.problems)


def only(*texts: str, **files: bytes) -> Problem:
    """The single problem of a world."""
    found = problems(*texts, **files)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def by_key(found: list[Problem]) -> Mapping[str, Problem]:
    return {problem.key: problem for problem in found}


def line_of(text: str, part: str) -> int:
    """The line on which `part` first stands."""
    return text[: text.index(part)].count("\n") + 1
