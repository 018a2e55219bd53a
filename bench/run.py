"""Entrepot beside the proxies that people know: the same load, the same upstream, the same two cores, in turns.

Each proxy runs on core 0; load and upstreams run on core 1. In every round each case is put to each of them in turn;
what is printed are medians over the rounds. CPU is user and system time of the whole process tree.
Missing peers are installed: HAProxy, nginx and wrk with apt-get (as root), Envoy and LiteLLM into bench/.peers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import measure
import report
import subjects
from measure import Call
from subjects import KEY, STATE, SUBJECTS, MissingError, Running, Subject


@dataclass(frozen=True)
class Case:
    name: str
    connections: int
    stream: bool

    def call(self, subject: Subject) -> Call:
        body = measure.HERE / "load" / ("stream.json" if self.stream else "call.json")
        return Call(subject.stream_port if self.stream else subject.call_port, body, KEY, self.connections)


CASES = (Case("c1", 1, False), Case("c32", 32, False), Case("c256", 256, False), Case("s64", 64, True))
SLOW_S = 8.0  # the window of a subject whose answers at 256 connections take seconds


def options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [subject.name for subject in SUBJECTS]
    usual = [subject.name for subject in SUBJECTS if not subject.extra]
    arguments.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    arguments.add_argument("--seconds", type=float, default=4, help="whole seconds a window; default: %(default)s")
    arguments.add_argument("--only", nargs="+", choices=names, default=usual, metavar="NAME", help=", ".join(names))
    arguments.add_argument(
        "--cases",
        nargs="+",
        choices=[case.name for case in CASES],
        metavar="CASE",
        default=[case.name for case in CASES],
        help="c1, c32, c256: calls over so many connections; s64: 64 streams of 64 chunks",
    )
    arguments.add_argument("--pace-ms", type=float, default=10.0, help="from chunk to chunk; default: %(default)s")
    arguments.add_argument("--json", type=Path, default=STATE / "results.json", help="default: %(default)s")
    return arguments.parse_args()


def measure_once(running: Running, subject: Subject, case: Case, seconds: float, warm: bool) -> report.Row:
    upstream = running.upstream(case.stream)
    pid = running.pid(subject.name) if subject.command else upstream.pid
    call = case.call(subject)
    if warm:
        measure.wrk(call, 1)
        measure.settle(pid)
    window = measure.window(pid, upstream, call, max(seconds, SLOW_S) if subject.once else seconds)
    arrivals: dict[str, float] = {}
    if case.stream:
        arrivals = measure.probe(call, 1.5)
        measure.settle(pid)
    return report.Row(subject.name, case.name, window, arrivals)


def measure_all(running: Running, chosen: argparse.Namespace) -> list[report.Row]:
    """Rounds over cases over subjects; who goes first changes from round to round."""
    rows: list[report.Row] = []
    for number in range(chosen.rounds):
        turn = [subject for subject in SUBJECTS if subject.name in chosen.only and not (subject.once and number)]
        turn = turn[number % len(turn) :] + turn[: number % len(turn)] if turn else []
        for case in (case for case in CASES if case.name in chosen.cases):
            for subject in turn:
                row = measure_once(running, subject, case, chosen.seconds, warm=number == 0)
                rows.append(row)
                print(f"round {number + 1}/{chosen.rounds} {report.progress(row)}", file=sys.stderr, flush=True)
        for subject in turn:
            if subject.once:
                running.stop(subject)
    return rows


def terminated(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    chosen = options()
    if (os.cpu_count() or 1) < 2:
        print("two cores are needed: one for the proxy, one for load and upstream", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, terminated)
    picked = [subject for subject in SUBJECTS if subject.name in chosen.only]
    try:
        subjects.install({subject.name for subject in picked})
        with Running() as running:
            running.start_upstreams(chosen.pace_ms)
            print(f"starting {', '.join(subject.name for subject in picked)} …", file=sys.stderr, flush=True)
            running.start(*picked)
            rows = measure_all(running, chosen)
        result = report.Result(
            rows=rows,
            machine=report.machine(),
            versions={subject.name: subjects.version(subject) for subject in picked if subject.version},
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            pace_ms=chosen.pace_ms,
        )
    except MissingError as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; everything that was started is ended", file=sys.stderr)
        return 130
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(report.document(result), indent=1) + "\n")
    print(report.text(result))
    print(f"\nAll windows: {chosen.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
