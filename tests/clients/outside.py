"""What stands for the rest of the world while clients are tested: a proxy that keeps what it is asked for."""

from __future__ import annotations

import os
import socket
import threading


class Outside:
    """Closes every connection to it; `asked` is the first line of each."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._refuse, daemon=True).start()

    def _refuse(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                self.asked.append(connection.recv(1_000).partition(b"\r\n")[0])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def environ(self) -> dict[str, str]:
        """Of a client that can reach this machine alone."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        here = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
        return {**kept, **dict.fromkeys(names, self.url), **here}
