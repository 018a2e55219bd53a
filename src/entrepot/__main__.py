"""`entrepot` and `python -m entrepot`."""

from __future__ import annotations

import sys

from entrepot.cli import command_line
from entrepot.config import Config


def main() -> None:
    command_line(sys.argv[1:], Config.load().environ)(prog_name="entrepot")


if __name__ == "__main__":
    main()
