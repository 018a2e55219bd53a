"""What the machine gives and no world holds: the data folder and secrets. The only reader of `os.environ`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from entrepot.errors import Code, Error


class Config(msgspec.Struct, frozen=True):
    """`data` holds everything that a process writes. `environ` is where `env:NAME` is looked up."""

    data: Path
    environ: Mapping[str, str]

    @classmethod
    def load(cls, data: Path | None = None) -> Config:
        """From the environment: `data`, else `ENTREPOT_DATA`, else `.entrepot` in the working directory."""
        environ = dict(os.environ)
        return cls(data or Path(environ.get("ENTREPOT_DATA") or ".entrepot"), environ)

    def resolve_secret(self, ref: str) -> str:
        """The secret that `env:NAME` or `file:PATH` names, without one trailing newline; it is read anew each time.

        A relative PATH is relative to the working directory. Raises Error when the secret is missing or empty;
        the message holds the reference, never the value.
        """
        kind, _, name = ref.partition(":")
        if kind == "env":
            value = self.environ.get(name)
            if value is None:
                raise Error(Code.NOT_READY, f"the secret `{ref}` is missing: set the environment variable `{name}`")
        elif kind == "file":
            try:
                value = Path(name).read_text(encoding="utf-8")
            except (OSError, ValueError) as exc:
                reason = exc.strerror if isinstance(exc, OSError) else "it is no file of UTF-8 text"
                raise Error(Code.NOT_READY, f"the secret `{ref}` cannot be read: {reason}") from exc
        else:
            raise Error(Code.NOT_READY, "a secret is named as `env:NAME` or `file:PATH`")
        value = value.removesuffix("\n").removesuffix("\r")
        if not value:
            raise Error(Code.NOT_READY, f"the secret `{ref}` is empty")
        return value
