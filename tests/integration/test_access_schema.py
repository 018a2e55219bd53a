"""Entrepot.Access against its own OpenAPI document: schemathesis, all checks, with and without a token."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from planes import Plane, plane

DOCUMENT = "/providers/Entrepot.Access/openapi.json"
# A precondition that does not hold is an answer to a request of whatever form.
_CONFIG = """
hooks = "access_schema_hooks"
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 413, 422]
"""
_COUNT = re.compile(r"(\d+) generated")
_FAILED = re.compile(r"(?m)^Failures:\n(.*?)\n\n", re.DOTALL)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    data = tmp_path_factory.mktemp("schema") / "data"
    with plane(data) as made:
        (data / "ca").mkdir()
        trustme.CA().cert_pem.write_to_path(str(data / "ca" / "ca.pem"))
        yield made


def run(served: Plane, folder: Path, *more: str) -> str:
    config = folder / "schemathesis.toml"
    config.write_text(_CONFIG, encoding="utf-8")
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config), "run"]
    command += [f"{served.url}{DOCUMENT}", "--checks", "all", "--seed", "7", "--no-color", "--continue-on-failure"]
    # In its place `well_formed_is_fit` knows what no schema can say.
    command += ["--exclude-checks", "positive_data_acceptance", "--warnings", "off", *more]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    return done.stdout + done.stderr


def test_the_document_is_served_without_a_token(served: Plane) -> None:
    document = httpx.get(served.url + DOCUMENT).json()
    assert document["openapi"] == "3.1.0"
    assert document["security"] == [{"bearer": []}]


@pytest.mark.parametrize("phases", ["examples,coverage", "fuzzing,stateful"])
def test_the_application_does_what_its_document_says(served: Plane, tmp_path: Path, phases: str) -> None:
    token = served.of("admin").headers["authorization"]
    said = run(
        served, tmp_path, "-H", f"Authorization: {token}", "--phases", phases, "--max-examples", "4", "--max-time", "20"
    )
    cases = _COUNT.search(said)
    assert cases is not None, said[-3_000:]
    assert int(cases[1]) > 5, said[-3_000:]  # some hundred in this time, where nothing else runs
    assert not _FAILED.search(said), said
    print(f"{phases}: {cases[1]} cases, none failed")
