"""Reads fields of a request's body: collects every mistake with the field's path and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from entrepot.errors import Detail
from entrepot.management.arm import texts

MAX_TAGS = 50
MAX_TAG_NAME = 512
MAX_TAG_VALUE = 256
LONGEST_ECHO = 80

_GROUP = re.compile(r"[A-Za-z0-9._()-]{0,89}[A-Za-z0-9_()-]")
_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DEPLOYMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Fields:
    """The mistakes of one request. `finish` raises them together."""

    def __init__(self) -> None:
        self._found: list[Detail] = []

    def mistake(self, field: str, what: str, fix: str) -> None:
        self._found.append(Detail("InvalidProperty", f"`{field}`: {what}; {fix}", field))

    @property
    def first(self) -> Detail | None:
        return self._found[0] if self._found else None

    def finish(self) -> None:
        if self._found:
            raise texts.invalid(tuple(self._found))

    def text(self, body: Mapping[str, Any], field: str, path: str = "") -> str | None:
        value = body.get(field)
        if value is None or (type(value) is str and value):
            return value
        self.mistake(path + field, f"expected text, found {kind_of(value)}", "write a string that is not empty")
        return None

    def flag(self, body: Mapping[str, Any], field: str, path: str = "") -> bool | None:
        value = body.get(field)
        if value is None or type(value) is bool:
            return value
        self.mistake(path + field, f"expected true or false, found {kind_of(value)}", "write true or false")
        return None

    def table(self, body: Mapping[str, Any], field: str, path: str = "") -> dict[str, Any]:
        value = body.get(field)
        if value is None:
            return {}
        if type(value) is dict:
            return value
        self.mistake(path + field, f"expected an object, found {kind_of(value)}", "write `{…}`")
        return {}

    def count(self, body: Mapping[str, Any], field: str, path: str = "") -> int | None:
        """A whole number from 1 on; digits in a string are taken too, as the Azure CLI sends them."""
        value = body.get(field)
        if (type(value) is str and re.fullmatch(r"[0-9]{1,9}", value)) or (type(value) is float and value.is_integer()):
            value = int(value)
        if value is None or (type(value) is int and 1 <= value <= 1_000_000):
            return value
        self.mistake(path + field, f"{shown(value)} is no capacity", "write a whole number from 1 to 1000000")
        return None

    def choice(self, body: Mapping[str, Any], field: str, allowed: Iterable[str], path: str = "") -> str | None:
        """The allowed spelling of what was given, whatever its case."""
        value = self.text(body, field, path)
        if value is None:
            return None
        spelled = {each.lower(): each for each in allowed}
        if value.lower() in spelled:
            return spelled[value.lower()]
        self.mistake(path + field, f"{shown(value)} is not known", f"write one of {', '.join(spelled.values())}")
        return None

    def tags(self, body: Mapping[str, Any]) -> dict[str, str] | None:
        given = body.get("tags")
        if given is None:
            return None
        given = self.table(body, "tags")
        if len(given) > MAX_TAGS:
            self.mistake("tags", f"there are {len(given)}", f"keep at most {MAX_TAGS}")
        for name, value in given.items():
            if not name or len(name) > MAX_TAG_NAME:
                self.mistake(f"tags.{name[:LONGEST_ECHO]}", "the name is too long", f"use at most {MAX_TAG_NAME}")
            elif type(value) is not str or len(value) > MAX_TAG_VALUE:
                self.mistake(f"tags.{name}", "expected text", f"write a string of at most {MAX_TAG_VALUE} characters")
        return given

    def group_name(self, name: str) -> None:
        if not _GROUP.fullmatch(name):
            self.mistake(
                "resourceGroupName",
                f"{shown(name)} is no resource group",
                "use letters, digits, `.`, `_`, `-` and parentheses, at most 90, no final dot",
            )

    def account_name(self, name: str) -> None:
        if not _ACCOUNT.fullmatch(name):
            self.mistake(
                "accountName",
                f"{shown(name)} is no account name",
                "use lower-case letters, digits and inner hyphens, at most 63: the name is a part of a host name",
            )

    def deployment_name(self, name: str) -> None:
        if not _DEPLOYMENT.fullmatch(name):
            self.mistake(
                "deploymentName",
                f"{shown(name)} is no deployment name",
                "begin with a letter or digit, use letters, digits, `.`, `_` and `-`, at most 64 of them",
            )


def kind_of(value: Any) -> str:
    """What a JSON value is, for messages."""
    names = {
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), "something else")


def shown(value: Any) -> str:
    """What was given, in backticks and not endlessly."""
    text = str(value)
    return f"`{text if len(text) <= LONGEST_ECHO else text[:LONGEST_ECHO] + '…'}`"
