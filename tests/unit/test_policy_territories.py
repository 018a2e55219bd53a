"""Territory codes: what is one, how it is spelt, and what is refused."""

from __future__ import annotations

import pytest

from entrepot.resources.territories import CODES, country_of, normalise_territory


def test_the_table_is_iso_3166_1_and_kosovo() -> None:
    assert len(CODES) == 249 + 1
    assert {"HK", "MO", "TW", "CN", "XK"} <= CODES
    assert not CODES & {"UK", "EU", "XX", "ZZ", "T1", "SU", "YU", "AN"}


@pytest.mark.parametrize(
    ("text", "code"),
    [("DE", "DE"), ("de", "DE"), (" jp ", "JP"), ("UK", "GB"), ("uk", "GB"), ("ua-43", "UA-43"), ("GB-ENG", "GB-ENG")],
)
def test_spellings_of_one_code(text: str, code: str) -> None:
    assert normalise_territory(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "EU",
        "XX",
        "ZZ",
        "T1",
        "",
        "unknown",
        "D",
        "DEU",
        "CHN",
        "UA-",
        "UA-4333",
        "UA-4-3",
        "EU-1",
        "U A",
        "\uff24\uff25",
    ],
)
def test_what_is_no_territory(text: str) -> None:
    assert normalise_territory(text) is None


def test_country_of_a_subdivision() -> None:
    assert country_of("UA-43") == "UA"
    assert country_of("UA") == "UA"
