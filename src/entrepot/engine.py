"""A local inference engine for the demonstration: llama.cpp, through the optional extra `local`, in a child process.

The child listens on the loopback only and lives no longer than its parent: its standard input is a pipe that the parent
holds, and it leaves when the pipe closes, however the parent ended. It speaks the OpenAI wire; nothing here knows it.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from entrepot.errors import Code, Error

if TYPE_CHECKING:
    from types import TracebackType

DEMO_MODEL = Path(__file__).with_name("demo_model") / "entrepot-tiny.gguf"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 5.0
CONTEXT_TOKENS = 8192  # shared by the slots; llama.cpp caps each at what the model was trained for
SLOTS = 4
BATCH_TOKENS = 1024  # also the longest input of one embedding
# A connection holds a thread of llama.cpp's HTTP server while it is open, idle ones included.
HTTP_THREADS = 64


class Engine:
    """A running engine. Made by `start`; also a context manager that stops it."""

    def __init__(self, process: subprocess.Popen[bytes], host: str, port: int) -> None:
        self._process = process
        self.host = host
        self.port = port

    @property
    def base_url(self) -> str:
        """What a client takes as its OpenAI base URL, `/v1` included."""
        return f"http://{self.host}:{self.port}/v1"

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @classmethod
    def start(cls, model: Path, *, alias: str, port: int = 0, log: Path | None = None) -> Self:
        """Start llama.cpp on a GGUF file and return once it is healthy; blocks up to `START_LIMIT_S`.

        Port 0 lets the kernel choose. `alias` is the model's name on the wire. llama.cpp's own messages are appended to
        the file `log`; without one only its errors are kept, for the message of the `Error` of a failed start.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise Error(Code.NOT_READY, "the local engine is not installed; run `pip install 'entrepot[local]'`")
        if not model.is_file():
            raise Error(Code.NOT_READY, f"no model file at `{model}`; give the path of a GGUF file")
        deadline = time.monotonic() + START_LIMIT_S
        command = [sys.executable, "-P", "-m", "entrepot.engine", str(model), "--alias", alias, "--port", str(port)]
        with log.open("ab") if log else tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(  # noqa: S603 - this interpreter, this module
                [*command, "--verbosity", "3" if log else "1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                process_group=0,  # Ctrl-C is for the parent, which stops its engine when it is done with it
            )
            try:
                engine = cls(process, *_reported_address(process, deadline))
                engine._await_health(deadline)
            except BaseException as error:
                _end(process)
                if isinstance(error, OSError | ValueError):
                    reason = f"engine did not start on `{model}`: {_cause(messages, log)}"
                    raise Error(Code.NOT_READY, reason) from error
                raise
        return engine

    def stop(self) -> None:
        """End the child, also one that is busy; calls in flight are cut. Idempotent."""
        _end(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _await_health(self, deadline: float) -> None:
        while True:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
            with closing(connection), suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            if time.monotonic() > deadline or not self.running:
                raise TimeoutError("engine is not healthy")
            time.sleep(0.02)


def _reported_address(process: subprocess.Popen[bytes], deadline: float) -> tuple[str, int]:
    """Host and port, from the one line that the child writes once the model is loaded. Raises OSError or ValueError."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
    if not ready:
        raise TimeoutError(f"engine said nothing within {START_LIMIT_S:g} s")
    host, port = process.stdout.readline().decode().split()
    return host, int(port)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def _cause(messages: IO[bytes], log: Path | None) -> str:
    """Why the child gave up: llama.cpp's first error is the cause, those after it are what followed."""
    if log:
        return f"see `{log}`"
    messages.seek(0)
    lines = messages.read().decode(errors="replace").strip().splitlines()
    errors = [line.partition(" E ")[2].strip() for line in lines if " E " in line]
    return (errors[:1] or lines[-1:] or ["it gave no reason"])[0]


def _serve(model: str, alias: str, port: int, verbosity: int) -> None:
    """The child: run llama.cpp until standard input ends. Writes `HOST PORT` to standard output, once."""
    import xllamacpp  # noqa: PLC0415 - the optional extra `local`

    report = os.dup(1)
    os.dup2(2, 1)  # llama.cpp writes to both
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.model_alias = {alias}
    parameters.port = port
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = SLOTS
    parameters.kv_unified = True
    parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
    parameters.n_threads_http = HTTP_THREADS
    # Two threads on two shared cores are many times slower than one, and one makes equal seeds give equal text.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.use_jinja = True
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.endpoint_metrics = True
    parameters.offline = True
    parameters.ui = False
    parameters.fit_params = False
    parameters.verbosity = verbosity
    server = xllamacpp.Server(parameters)
    host, _, listening = server.listening_address.removeprefix("http://").rpartition(":")
    os.write(report, f"{host} {listening}\n".encode())
    os.close(report)
    sys.stdin.buffer.read()
    # Not `sys.exit`: taking the server down in order would wait for the calls in flight.
    os._exit(0)


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m entrepot.engine", description="llama.cpp until standard input ends"
    )
    parser.add_argument("model")
    parser.add_argument("--alias", default="entrepot-tiny")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--verbosity", type=int, default=3)
    arguments = parser.parse_args()
    _serve(arguments.model, arguments.alias, arguments.port, arguments.verbosity)


if __name__ == "__main__":
    _main()
