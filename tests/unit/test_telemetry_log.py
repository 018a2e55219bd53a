"""Log lines, whoever reads them."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from entrepot.telemetry import log as lines
from entrepot.telemetry.log import JsonLines, Lines


@contextmanager
def logging_to(fd: int) -> Iterator[logging.Logger]:
    handler, logger = Lines(fd), logging.getLogger("entrepot.tests.lines")
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield logger
    finally:
        logger.removeHandler(handler)


def test_whoever_takes_no_lines_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PATIENT_MS", 1)
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8_192)
    with logging_to(writer) as logger:
        for number in range(size):  # many times what the pipe takes
            logger.warning("said", extra={"fields": {"number": number}})
        logger.error("x" * 3 * size)
        taken = os.read(reader, size)
        logger.error("y" * 3 * size)  # more than there is room for: torn
        taken += os.read(reader, size)
        logger.warning("last")
        os.close(writer)
        while part := os.read(reader, size):
            taken += part
    os.close(reader)
    text = taken.decode().splitlines()
    said = [json.loads(line) for line in text if '"said"' in line]
    assert [each["number"] for each in said] == list(range(len(said)))
    told = [json.loads(line) for line in text if "lines were dropped" in line]
    assert told[0]["lines"] == size - len(said) + 1
    assert json.loads(text[-1])["event"] == "last"


def test_whoever_read_and_has_gone_is_no_fault() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with logging_to(writer) as logger:
        logger.warning("said")
    os.close(writer)
