"""The command line: python -m chaos [OPTION…], see scripts/chaos."""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from . import faults, on_purpose, report
from .run import Result, Settings, run
from .system import Options

ROOT = pathlib.Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Breaks a running system and checks every answer.")
    parser.add_argument("--seed", type=int, default=1, help="replays a run's faults and choices (default 1)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long things break (default 30)")
    parser.add_argument("--interval", type=float, default=1.5, help="seconds between faults, on average (default 1.5)")
    parser.add_argument("--nodes", type=int, default=3, help="nodes of the first region (default 3)")
    parser.add_argument("--regions", type=int, choices=(1, 2), default=1, help="with 2, a second region with one node (default 1)")
    parser.add_argument("--only", metavar="KIND,…", help="only these kinds of faults: " + " ".join(faults.WEIGHTS))
    parser.add_argument("--staleness-bound", type=int, metavar="SECONDS", help="the bound that every node is started with")
    parser.add_argument("--earlier-binary", type=pathlib.Path, metavar="FILE", help="a program of an earlier build, which --earlier run")
    parser.add_argument(
        "--earlier",
        default="node-1",
        metavar="NAME,…",
        help="as node-1,control-plane-2 (default node-1: one that joins later may be too old for documents in use)",
    )
    parser.add_argument(
        "--fault-on-purpose",
        choices=[fault.name for fault in on_purpose.ALL],
        help="the run that provokes this fault of a test build",
    )
    parser.add_argument("--faults-on-purpose", action="store_true", help="each of these runs, with the fault and without it")
    parser.add_argument("--keep", action="store_true", help="write the counts into docs/reliability.md")
    parser.add_argument("--keep-files", action="store_true", help="keep the directory with logs and history even without violations")
    return parser.parse_args()


def binary() -> pathlib.Path:
    return pathlib.Path(os.environ.get("WHARFINGER_BIN", ROOT / "target/debug/wharfinger"))


def settings_of(given: argparse.Namespace) -> Settings:
    kinds = faults.WEIGHTS
    if given.only:
        unknown = [kind for kind in given.only.split(",") if kind not in faults.WEIGHTS]
        if unknown:
            sys.exit(f"unknown kinds of faults: {', '.join(unknown)}")
        kinds = {kind: weight for kind, weight in faults.WEIGHTS.items() if kind in given.only.split(",")}
    nodes = {"westus": given.nodes} | ({"northeurope": 1} if given.regions == 2 else {})
    planned = faults.plan(given.seed, given.seconds, kinds, given.interval)
    options = Options(nodes, staleness_bound=given.staleness_bound)
    if given.earlier_binary:
        options.earlier = dict.fromkeys(given.earlier.split(","), given.earlier_binary.resolve())
    return Settings(given.seed, given.seconds, binary(), options, planned,
                    keep_files=given.keep_files)  # fmt: skip


def tell(result: Result, seed: int, took: float) -> None:
    for line in report.details(result.violations):
        print(line)
    print(f"seed {seed}, {took:.0f} s")
    for line in report.summary(result.history, result.faults, result.left_out, result.violations):
        print(line)
    if result.violations:
        print(f"logs and history are in {result.directory}")


def provoke_all(given: argparse.Namespace, faults_to_find: Sequence[on_purpose.OnPurpose]) -> int:
    """Each fault must be found, and the same run without it must find nothing."""
    rows, failed = [], False
    for fault in faults_to_find:
        for is_on in (True, False):
            print(f"== {fault.name}: {fault.what} ({'put in' if is_on else 'not put in'})", flush=True)
            begun = time.monotonic()
            result = asyncio.run(run(on_purpose.settings(fault, given.seed, binary(), is_on)))
            tell(result, given.seed, time.monotonic() - begun)
            rules = ", ".join(sorted({violation.rule for violation in result.violations}))
            failed |= bool(result.violations) != is_on
            rows.append(f"| {fault.name} | {'yes' if is_on else 'no'} | {len(result.violations)} | {rules or '–'} |")
    table = ["| fault | put in | violations | found by |", "|---|---|---|---|", *rows]
    print("\n" + "\n".join(table))
    if given.keep:
        report.keep("faults", table)
    return int(failed)


def main() -> int:
    given = arguments()
    if given.faults_on_purpose or given.fault_on_purpose:
        chosen = [fault for fault in on_purpose.ALL if given.fault_on_purpose in (None, fault.name)]
        return provoke_all(given, chosen)
    settings = settings_of(given)
    print(f"seed {settings.seed}: {len(settings.planned)} faults planned")
    for planned in settings.planned:
        print(f"  {planned}")
    begun = time.monotonic()
    result = asyncio.run(run(settings))
    tell(result, settings.seed, time.monotonic() - begun)
    if given.keep:
        what = " ".join(sys.argv[1:]).replace(" --keep", "").replace("--keep ", "") or "no options"
        report.keep_run(what, report.row(what, result.history, result.faults, result.violations))
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
