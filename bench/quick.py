"""The short loop while optimising: one case, one proxy, a few windows, CPU per call.

Without --pid it starts the upstreams and the proxy (Entrepot by default) on core 0, and ends them. With --pid it loads
a proxy that runs already (its process tree is measured), on the port of --subject, and starts the upstreams only if
nothing listens there. The first window is a warm-up and is not counted.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from statistics import median

import measure
import report
import subjects
from run import CASES, Case
from subjects import CALL_UPSTREAM, STREAM_UPSTREAM, SUBJECTS, MissingError, Running, Subject


def options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [subject.name for subject in SUBJECTS if subject.command]
    arguments.add_argument("--subject", choices=names, default=report.OURS, help="default: %(default)s")
    arguments.add_argument("--case", choices=[case.name for case in CASES], default="c32", help="default: %(default)s")
    arguments.add_argument("--seconds", type=float, default=3, help="a window; default: %(default)s")
    arguments.add_argument("--repeat", type=int, default=3, help="windows; default: %(default)s")
    arguments.add_argument("--pid", type=int, help="of a proxy that runs already")
    arguments.add_argument("--upstreams", action="store_true", help="only start the upstreams, until Ctrl-C")
    arguments.add_argument("--pace-ms", type=float, default=10.0, help="from chunk to chunk; default: %(default)s")
    arguments.add_argument("--perf", metavar="FILE", help="also record the last window with `perf record -g` into FILE")
    return arguments.parse_args()


def loop(running: Running, subject: Subject, case: Case, chosen: argparse.Namespace) -> None:
    pid = chosen.pid or running.pid(subject.name)
    upstream, call = running.upstream(case.stream), case.call(subject)
    measure.wrk(call, 1)
    rows = []
    for number in range(chosen.repeat):
        recorder = None
        if chosen.perf and number == chosen.repeat - 1:
            pids = ",".join(str(each) for each in measure.tree(pid))
            command = ["perf", "record", "-q", "-g", "-F", "2000", "-o", chosen.perf, "-p", pids]
            recorder = subprocess.Popen([*command, "--", "sleep", str(chosen.seconds)])
        window = measure.window(pid, upstream, call, chosen.seconds)
        if recorder is not None:
            recorder.wait()
        arrivals = measure.probe(call, 1.5) if case.stream else {}
        rows.append(report.Row(subject.name, case.name, window, arrivals))
        print(report.progress(rows[-1]), f"· others on core 0: {window.others:.0%}", flush=True)
    unit = "chunk" if case.stream else "call"
    costs = [row.cpu_us for row in rows]
    rss_mb = rows[-1].window.rss_bytes / 2**20
    print(f"CPU µs a {unit}: median {median(costs):.1f}, least {min(costs):.1f}; RSS {rss_mb:.0f} MB")


def main() -> int:
    chosen = options()
    subject = next(each for each in SUBJECTS if each.name == chosen.subject)
    case = next(each for each in CASES if each.name == chosen.case)
    try:
        subjects.install({subject.name})
        with Running() as running:
            if not (chosen.pid and subjects.listening(CALL_UPSTREAM) and subjects.listening(STREAM_UPSTREAM)):
                running.start_upstreams(chosen.pace_ms)
            if chosen.upstreams:
                print("upstreams run until Ctrl-C", flush=True)
                signal.pause()
            if not chosen.pid:
                running.start(subject)
            loop(running, subject, case, chosen)
    except MissingError as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
