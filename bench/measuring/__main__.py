"""Runs the measurements and prints the table. A goal that is missed is shown; only a measurement that fails ends in an error."""

import argparse
import json
import pathlib
import signal
import sys

from . import access, feed, forward, registry, table
from .feed.run import Run
from .installation import ControlPlane
from .machine import Failure, Surroundings, description, run_name
from .postgres import Postgres
from .rows import Bench

# These share one installation, and are measured in turns.
SHARING = ("rest", "show", "login", "renew", "create", "index")
# Each of these makes an installation of its own.
ALONE = {**feed.ROWS, "forward": forward.forward, "access": access.access, **registry.MEASURES}
ROWS = (*SHARING, *ALONE)
# One word for several rows.
GROUPS = {"registry": tuple(registry.MEASURES)}


def options():
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures Wharfinger against peers and limits on this machine.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"only these: {' '.join(ROWS)}; registry for all of its rows")
    parser.add_argument("--repetitions", type=int, default=5, help="of every measurement (default: 5)")
    parser.add_argument("--seconds", type=int, default=5, help="of load for each side (default: 5)")
    parser.add_argument("--wait", type=int, default=20, help="seconds to wait for a busy machine before each side (default: 20)")
    parser.add_argument("--programs", type=pathlib.Path, help="directory of a build to measure as it is, without building")
    parser.add_argument("--samples", type=pathlib.Path, help="file for every figure that was taken, as JSON")
    parser.add_argument(
        "--share", type=float, default=1, help="of the nodes, documents and changes of rows about the feed, to see whether they work"
    )
    parser.add_argument("--keep", action="store_true", help="put the rows that were measured into docs/benchmarks.md")
    chosen = parser.parse_args()
    chosen.rows = [row for word in chosen.rows for row in GROUPS.get(word, (word,))]
    unknown = set(chosen.rows) - set(ROWS)
    if unknown:
        parser.error(f"unknown rows: {' '.join(sorted(unknown))}; there are: {' '.join(ROWS)}")
    if chosen.keep and chosen.share != 1:
        parser.error("a share of a measurement is no result to be kept")
    chosen.rows = list(dict.fromkeys(chosen.rows or ROWS))
    return chosen


def say(text):
    print(f"== {text}", file=sys.stderr, flush=True)


def measure_sharing(bench, rows):
    """Everything but the memory at rest in one installation, all rows in each repetition."""
    if "rest" in rows:
        say("memory at rest")
        bench.rest()
    say("starting an installation")
    bench.prepare(ControlPlane, Postgres)
    repetitions = bench.options.repetitions
    for repetition in range(repetitions):
        for row in rows:
            if row != "rest":
                say(f"repetition {repetition + 1} of {repetitions}: {row}")
                getattr(bench, row)(repetition)
    bench.after_load()
    bench.end()


def measure(bench, chosen):
    """Measures the rows and returns those that could be measured. A row with an installation of its own that fails takes no other with it."""
    sharing = [row for row in chosen.rows if row in SHARING]
    if sharing:
        measure_sharing(bench, sharing)
    measured = list(sharing)
    for row in chosen.rows:
        if row not in ALONE:
            continue
        say(row)
        samples = {}
        try:
            ALONE[row](Run(chosen, bench.surroundings, samples))
        except Failure as failure:
            print(f"error: {row}: {failure}", file=sys.stderr)
        else:
            bench.samples |= samples
            measured.append(row)
    return measured


def main():
    chosen = options()
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    surroundings = Surroundings(chosen.wait)
    bench = Bench(chosen, surroundings)
    name = run_name()
    try:
        measured = measure(bench, chosen)
        if measured:
            report(bench, chosen, measured, name)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    finally:
        bench.end()
    return 0 if len(measured) == len(chosen.rows) else 1


def report(bench, chosen, measured, name):
    result = "\n".join(
        [
            *description(),
            f"- run {name}: {chosen.repetitions} repetitions, {chosen.seconds} s a side; {bench.surroundings.text()}",
            "",
            table.Table(bench.samples, name).text(),
        ]
    )
    print(result)
    if chosen.samples:
        chosen.samples.write_text(json.dumps(bench.samples, indent=1) + "\n")
    if chosen.keep:
        table.keep(result, measured)


sys.exit(main())
