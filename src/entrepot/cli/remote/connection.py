"""The one connection of the command line to a control plane: who we are, its certificate, its errors as ours."""

from __future__ import annotations

import contextlib
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import httpx
import msgspec
import typer

from entrepot.config import Config

API_VERSION: Final = "2026-11-01"
TIMEOUT_S: Final = 120.0  # a policy release is replayed before it is answered
CLIENT_ID: Final = "ENTREPOT_CLIENT_ID"
CLIENT_SECRET: Final = "ENTREPOT_CLIENT_SECRET"  # noqa: S105 - the name of a variable
ACCESS: Final = "/providers/Entrepot.Access"

Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of a control plane on this machine.")]
Address = Annotated[str | None, typer.Option("--control", metavar="URL", help="Another control plane, https://…")]
Authority = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="With --control: its certificate authority.", exists=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Refused(Exception):  # noqa: N818 - what the control plane said
    """An answer that is not 2xx, or none at all (status 0). `problems` are (field, what) of its details.

    `decision`: where on the ledger the access policy's refusal stands, if it was that.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        problems: tuple[tuple[str, str], ...] = (),
        decision: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.problems = problems
        self.decision = decision

    def lines(self) -> list[str]:
        """`field: what; how to mend it`, one for each mistake."""
        if self.decision is not None:
            return [f"{self.message} (decision {self.decision})"]
        if not self.problems:
            return [self.message]
        told = [f"{field}: {what}" if field else what for field, what in self.problems]
        return told if any(self.message in each for each in told) else [self.message, *(f"  {each}" for each in told)]


class _Told(msgspec.Struct, frozen=True):
    """`control.json` of a control plane's data folder."""

    url: str
    ca: str
    client_id: str


class _Access(msgspec.Struct, frozen=True):
    url: str
    ca: str | None
    client_id: str
    secret: str


class Connection:
    """May be used by many threads at once. A token that ran out is fetched anew, once a request."""

    def __init__(self, access: _Access) -> None:
        self.url = access.url
        self._access = access
        context = ssl.create_default_context(cafile=access.ca)
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=32)
        self._http = httpx.Client(
            base_url=access.url, verify=context, timeout=TIMEOUT_S, limits=limits, trust_env=False
        )
        self._lock = threading.Lock()
        self._token = ""

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: str) -> Any:
        return self.send("GET", path, query=query)

    def put(self, path: str, body: Any, **headers: str) -> Any:
        return self.send("PUT", path, body, headers)

    def post(self, path: str, body: Any = None) -> Any:
        return self.send("POST", path, body)

    def delete(self, path: str) -> Any:
        return self.send("DELETE", path)

    def all(self, path: str, **query: str) -> Iterator[Any]:
        """Every item of a list, page after page."""
        page = self.get(path, **query)
        while True:
            yield from page["value"]
            link = page.get("nextLink")
            if not link:
                return
            page = self.send("GET", link)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
    ) -> Any:
        """The answer's JSON, None where there is none. `path` may be a whole link. Raises Refused."""
        token = self._token or self._log_in("")
        answer = self._once(method, path, body, headers, query, token)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            answer = self._once(method, path, body, headers, query, self._log_in(token))
        if not answer.is_success:
            raise refusal(answer)
        return answer.json() if answer.content else None

    def _once(self, method: str, path: str, body: Any, headers: Any, query: Any, token: str) -> httpx.Response:
        parameters = {} if "api-version=" in path else {"api-version": API_VERSION, **(query or {})}
        content = None if body is None else msgspec.json.encode(body)
        given = {"authorization": f"Bearer {token}", "content-type": "application/json", **(headers or {})}
        with _reaching(self.url):
            return self._http.request(method, path, content=content, headers=given, params=parameters or None)

    def _log_in(self, stale: str) -> str:
        """A token other than `stale`; threads that ask at once share one."""
        with self._lock:
            if self._token == stale:
                form = {
                    "grant_type": "client_credentials",
                    "client_id": self._access.client_id,
                    "client_secret": self._access.secret,
                    "scope": f"{self.url}/.default",
                }
                with _reaching(self.url):
                    answer = self._http.post("/adfs/oauth2/token", data=form)
                if not answer.is_success:
                    told = answer.json() if _is_json(answer) else None
                    if not isinstance(told, dict) or "error_description" not in told:
                        raise refusal(answer)  # not who we are is wrong, but the control plane does not work
                    what = f"`{self.url}` did not let us in: {told['error_description']}"
                    raise Refused(answer.status_code, "LoginFailed", what)
                self._token = answer.json()["access_token"]
            return self._token


@contextlib.contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        what = str(error) or type(error).__name__
        fix = "is it running, and is `--ca` its authority?"
        raise Refused(0, "Unreachable", f"the control plane at `{url}` cannot be reached: {what}; {fix}") from error


def refusal(answer: httpx.Response) -> Refused:
    """Of an ARM error; of whatever else came, its beginning."""
    told = answer.json() if _is_json(answer) else None
    if not isinstance(told, dict) or not isinstance(told.get("error"), dict):
        return Refused(answer.status_code, "Unknown", f"HTTP {answer.status_code}: {answer.text[:200]}")
    return refusal_of(answer.status_code, told)


def refusal_of(status: int, told: dict[str, Any]) -> Refused:
    """Of `{"error": {…}}`."""
    error = told["error"]
    problems = tuple((each.get("target", ""), each.get("message", "")) for each in error.get("details", ()))
    decisions = (each["info"] for each in error.get("additionalInfo", ()) if each.get("type") == "AccessDecision")
    decision = next((str(each.get("decision", "")) for each in decisions), None)
    return Refused(status, error.get("code", ""), error.get("message", ""), problems, decision)


def _is_json(answer: httpx.Response) -> bool:
    return str(answer.headers.get("content-type", "")).startswith("application/json")


def access_of(config: Config, control: str | None, ca: Path | None) -> _Access:
    """From `--control` or the data folder, and from the environment. Ends the command where it is not said."""
    client, secret = config.environ.get(CLIENT_ID), config.environ.get(CLIENT_SECRET)
    if control is not None:
        if client is None or secret is None:
            fail(f"with --control, say who you are: set `{CLIENT_ID}` and `{CLIENT_SECRET}`", 2)
        return _Access(control.rstrip("/"), None if ca is None else str(ca), client, secret)
    file = config.data / "control.json"
    try:
        told = msgspec.json.decode(file.read_bytes(), type=_Told)
    except (OSError, msgspec.DecodeError):
        fail(
            f"`{config.data}` is no control plane's folder; start one with `entrepot serve --data {config.data}`, or "
            "name one with --control URL",
            2,
        )
    if client is not None and secret is not None:
        return _Access(told.url, str(ca or told.ca), client, secret)
    try:
        kept = (config.data / "admin.secret").read_text(encoding="utf-8").strip()
    except OSError:
        file = config.data / "admin.secret"
        fail(f"`{file}` is gone: set `{CLIENT_ID}` and `{CLIENT_SECRET}` to those of a principal", 2)
    return _Access(told.url, str(ca or told.ca), told.client_id, kept)


@contextlib.contextmanager
def connected(data: Path | None, control: str | None, ca: Path | None) -> Iterator[Connection]:
    """A connection for one command; what is refused within it ends the command, told on stderr, with status 1."""
    connection = Connection(access_of(Config.load(data), control, ca))
    try:
        yield connection
    except Refused as refused:
        fail("\n".join([*refused.lines(), *_next(refused)]))
    finally:
        connection.close()


def _next(refused: Refused) -> list[str]:
    if refused.code == "SecondPersonRequired":
        return [f"another person approves it: set their `{CLIENT_ID}` and `{CLIENT_SECRET}`, and run the same command"]
    if refused.code == "LoginFailed":
        return [f"check `{CLIENT_ID}` and `{CLIENT_SECRET}`; `entrepot principal secret` gives a principal a new one"]
    return []


def fail(message: str, status: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(status)
