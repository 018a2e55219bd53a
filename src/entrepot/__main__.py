"""`entrepot` and `python -m entrepot`."""

from __future__ import annotations

import errno
import sys

from entrepot.cli import command_line
from entrepot.config import Config


def main() -> None:
    try:
        command_line(sys.argv[1:], Config.load().environ)(prog_name="entrepot")
    except OSError as wrong:
        if wrong.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or wrong.filename is not None:
            raise
        sys.exit(f"the output cannot be written: {wrong.strerror}")


if __name__ == "__main__":
    main()
