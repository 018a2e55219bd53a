"""`entrepot` and `python -m entrepot`."""

from __future__ import annotations

import sys

from entrepot.cli import command_line


def main() -> None:
    command_line(sys.argv[1:])()


if __name__ == "__main__":
    main()
