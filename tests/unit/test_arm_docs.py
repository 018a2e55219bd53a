"""Every route of Azure's management API, and every error that it has a name for, stands in its page."""

from __future__ import annotations

import re
from pathlib import Path

from entrepot.management import arm

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/azure-management.md").read_text(encoding="utf-8")

# As the page shortens them, the longest first.
_SHORT = (
    ("/subscriptions/{subscription}/providers/Microsoft.CognitiveServices/locations/{location}", "L"),
    ("/subscriptions/{subscription}/providers/Microsoft.CognitiveServices", "P"),
    (
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.CognitiveServices/accounts/{account}",
        "A",
    ),
    ("/subscriptions/{subscription}/resourceGroups/{group}", "G"),
    ("/subscriptions/{subscription}", "S"),
)


def _short(path: str) -> str:
    for long, short in _SHORT:
        if path.startswith(long):
            return short + path[len(long) :]
    return path


def test_every_route_is_in_the_table() -> None:
    routes = [(method, route.path) for route in arm.routes() for method in route.methods or ()]
    assert len(routes) > 40
    head = ("HEAD", "/subscriptions/{subscription}/resourceGroups/{group}")
    wanted = {f"`{method} {_short(path)}`" for method, path in routes if method != "HEAD" or (method, path) == head}
    assert sorted(each for each in wanted if each not in PAGE) == []


def test_every_named_error_is_in_the_table() -> None:
    sources = [*(ROOT / "src/entrepot/management/arm").glob("*.py"), ROOT / "src/entrepot/wire/refusals.py"]
    names = {name for path in sources for name in re.findall(r'name="(\w+)"', path.read_text(encoding="utf-8"))}
    assert len(names) > 20
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []
