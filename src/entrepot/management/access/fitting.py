"""Whether a resource is well formed by itself: the rules of the world format, every mistake told at once.

What a resource cannot know alone (names that nothing has, overlaps between resources) is the snapshot's to tell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from entrepot.errors import Detail
from entrepot.management.access.envelope import invalid
from entrepot.resources.documents import Document, Reading
from entrepot.resources.model import Keys, Subscription
from entrepot.resources.problems import Problem

_NOBODY: Final = Subscription("00000000-0000-0000-0000-000000000000", "nobody", operator="nobody", channel="direct")
_NO_KEYS: Final = Keys("sha256:" + "0" * 64)


def fit(kind: str, id: str, body: Mapping[str, Any], *, only: Collection[str] = ()) -> None:  # noqa: A002
    """Raises Error (400) with every mistake; `only` those in these properties, where given."""
    if found := mistakes(kind, id, body, only=only):
        raise invalid(found)


def mistakes(kind: str, id: str, body: Mapping[str, Any], *, only: Collection[str] = ()) -> list[Detail]:  # noqa: A002
    """The same, for who has found others too."""
    reading = Reading()
    document = Document(kind, id, id.rpartition("/")[2], body)
    if kind == "account":
        reading.account(document, (), _NOBODY, _NO_KEYS)
    elif kind == "settings":
        reading.gateway(document, None)
    elif kind == "gateway":
        reading.gateway(None, document)
    else:
        reading.resource(document)
    problems = [each for each in reading.problems() if each.level == "error" and _concerns(each, only)]
    return [Detail("InvalidProperty", f"{each.what}; {each.fix}", each.key or None) for each in problems]


def _concerns(problem: Problem, only: Collection[str]) -> bool:
    if not only:
        return True
    field = problem.key.removeprefix("properties.")
    return any(field == name or field.startswith((f"{name}.", f"{name}[")) for name in only)
