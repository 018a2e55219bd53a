"""Territory codes: ISO 3166-1 alpha-2 (and `XK`), and the form of ISO 3166-2. Holds no names and no groups.

HK, MO and TW are codes of their own. A group of territories is a dated set of a policy pack, never built in here.
"""

from __future__ import annotations

import re

# ISO 3166-1 as of 2026; `XK` (Kosovo) is user-assigned and in general use.
_TABLE = """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
    CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR
    GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT
    JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY
    MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM
    PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV
    SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS
    XK YE YT ZA ZM ZW
"""
CODES = frozenset(_TABLE.split())

# Exceptionally reserved spellings that mean one territory. `EU`, `XX`, `ZZ` and `T1` mean none and are refused.
ALIASES = {"UK": "GB"}

_SUBDIVISION = re.compile(r"[A-Z0-9]{1,3}")


def normalise_territory(text: str) -> str | None:
    """The code in capitals (`de` → `DE`, `UK` → `GB`, `ua-43` → `UA-43`), or None when it is no territory.

    A subdivision is checked for its form and its country only. `unknown` is no code: callers that allow it ask first.
    """
    country, dash, part = text.strip().upper().partition("-")
    country = ALIASES.get(country, country)
    if country not in CODES:
        return None
    if not dash:
        return country
    return f"{country}-{part}" if _SUBDIVISION.fullmatch(part) else None


def country_of(code: str) -> str:
    """The alpha-2 code of a normalised territory: `UA` of `UA-43` and of `UA`."""
    return code.partition("-")[0]
