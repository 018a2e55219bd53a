"""Follows a control plane as a gateway's parent does, but compiles nothing: `follow_control.py DATA`, until killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from entrepot.gateway.control import ControlSource
from entrepot.gateway.enrolment import enrolled


async def main(data: Path) -> None:
    known = enrolled(data)
    assert known is not None
    source = ControlSource(known, data)
    source.running((await source.first()).revision, True)
    print("following", flush=True)
    async for message in source.changes():
        source.running(message.revision, True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
