"""Which models can be deployed where, and what quota they draw."""

from __future__ import annotations

import pytest

from entrepot.management.arm import quota
from entrepot.management.arm.catalogue import Catalogue, Served, render_model
from entrepot.management.arm.quota import Held
from entrepot.resources.model import Region

CATALOGUE = Catalogue(
    {
        "swedencentral": Region("swedencentral", "SE", "op", ("eu",), "Sweden Central"),
        "francecentral": Region("francecentral", "FR", "op", ("eu",)),
        "japaneast": Region("japaneast", "JP", "op"),
    },
    (
        Served("swedencentral", "openai", ("gpt-4o@2024-05-13", "gpt-4o@2024-11-20")),
        Served("japaneast", "openai", ("text-embedding-3-large@1",)),
        Served("japaneast", "qwen", ("qwen3@1",)),
    ),
    {"gpt-4o@2024-11-20": {"defaultQuota": {"Standard": 5}}},
)


@pytest.mark.parametrize("given", ["swedencentral", "Sweden Central", "SWEDENCENTRAL", "sweden central"])
def test_locations_as_people_write_them(given: str) -> None:
    assert CATALOGUE.location(given) == "swedencentral"
    assert CATALOGUE.location("nowhere") is None


def test_skus_reach_as_far_as_they_say() -> None:
    found = {(o.name, o.version): o.skus for o in CATALOGUE.offers("swedencentral")}
    assert found["gpt-4o", "2024-11-20"] == ("Standard", "DataZoneStandard", "GlobalStandard")
    assert found["qwen3", "1"] == ("GlobalStandard",)
    found = {(o.name, o.version): o.skus for o in CATALOGUE.offers("francecentral")}
    assert found["gpt-4o", "2024-11-20"] == ("DataZoneStandard", "GlobalStandard")
    found = {(o.name, o.version): o.skus for o in CATALOGUE.offers("japaneast")}
    assert found["qwen3", "1"] == ("Standard", "GlobalStandard")


def test_the_newest_version_is_the_default() -> None:
    offer = CATALOGUE.find("japaneast", "OpenAI", "gpt-4o", None)
    assert offer is not None
    assert offer.version == "2024-11-20"
    assert [o.default for o in CATALOGUE.offers("japaneast") if o.name == "gpt-4o"] == [False, True]


@pytest.mark.parametrize(
    ("format_", "name", "found"), [("openai", "gpt-4o", True), ("Qwen", "qwen3", True), ("OpenAI", "qwen3", False)]
)
def test_a_format_is_that_of_the_provider(format_: str, name: str, found: bool) -> None:
    assert (CATALOGUE.find("japaneast", format_, name, None) is not None) is found


def test_the_usage_name_joins_models_and_usages() -> None:
    offer = CATALOGUE.find("japaneast", "OpenAI", "gpt-4o", None)
    assert offer is not None
    (sku,) = render_model(offer)["skus"]
    assert sku["usageName"] == "OpenAI.GlobalStandard.gpt-4o"
    assert sku["capacity"]["default"] == 10


HOLDING = [
    Held("japaneast", "gpt-4o", "Standard", 10, "/a/deployments/x"),
    Held("japaneast", "gpt-4o", "Standard", 5, "/b/deployments/y"),
    Held("japaneast", "gpt-4o", "GlobalStandard", 7, "/b/deployments/z"),
    Held("koreacentral", "gpt-4o", "Standard", 9, "/c/deployments/x"),
]


def test_what_is_drawn_is_counted_by_region_model_and_sku() -> None:
    assert quota.used(HOLDING, "japaneast", "gpt-4o", "Standard") == 15
    assert quota.used(HOLDING, "japaneast", "gpt-4o", "Standard", besides="/a/deployments/x") == 5
    assert quota.used(HOLDING, "japaneast", "gpt-4", "Standard") == 0


def test_whose_limit_counts_first() -> None:
    own = {"japaneast/OpenAI.Standard.gpt-4o": 1, "OpenAI.Standard.gpt-4o": 2, "OpenAI.Standard.o1": "many"}
    assert quota.limit("gpt-4o", "Standard", "japaneast", own, {"Standard": 3}) == 1
    assert quota.limit("gpt-4o", "Standard", "eastus", own, {"Standard": 3}) == 2
    assert quota.limit("o1", "Standard", "eastus", own, {"Standard": 3}) == 3
    assert quota.limit("o1", "Standard", "eastus", {}, {}) == quota.DEFAULTS["Standard"]


@pytest.mark.parametrize(
    ("model", "capacity", "requests"),
    [
        ("gpt-4o", 10, 60),
        ("o1", 12, 2),
        ("o1", 1, 1),
        ("o1-mini", 100, 10),
        ("o3", 5, 5),
        ("o3-mini", 50, 5),
        ("o4-mini", 8, 8),
    ],
)
def test_requests_per_minute_by_model(model: str, capacity: int, requests: int) -> None:
    assert quota.requests_per_minute(model, capacity) == requests


def test_rate_limits_as_deployments_show_them() -> None:
    assert quota.rate_limits("gpt-4o", 10) == [
        {"key": "request", "renewalPeriod": 10.0, "count": 10.0},
        {"key": "token", "renewalPeriod": 60.0, "count": 10_000.0},
    ]
