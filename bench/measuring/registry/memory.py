"""Memory that the push and the pull of a blob of 1 GiB take."""

import pathlib
import re
import time

from ..machine import resident_mebibytes
from .blobs import path_of
from .site import Site

GIBIBYTE = 1024 * 1024 * 1024
# A client that goes away leaves what it had to be let go.
SETTLING_SECONDS = 1


def measure(run):
    with Site(run) as site:
        for side in (site.by_token, site.docker):
            # The first blob is also what everything is made for that stays.
            side.load("upload", "--bytes", 1024)
        for repetition in run.repetitions(run.options.repetitions):
            sides = [site.by_token, site.docker]
            for side in sides if repetition % 2 == 0 else reversed(sides):
                run.settle()
                uploaded = {}
                push = more(side.pid, lambda: uploaded.update(side.load("upload", "--bytes", GIBIBYTE)))
                pull = more(side.pid, lambda: side.load("read", "--path", path_of(uploaded), "--count", 1))
                run.record(f"memory push {side.name}", push)
                run.record(f"memory pull {side.name}", pull)


def more(pid, act):
    """How much more memory a process had at its highest, while something was done, than before."""
    time.sleep(SETTLING_SECONDS)
    before = resident_mebibytes(pid)
    process = pathlib.Path(f"/proc/{pid}")
    # Forgets how high it was (proc(5), clear_refs).
    (process / "clear_refs").write_text("5")
    act()
    status = (process / "status").read_text()
    highest = int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE).group(1)) / 1024
    return max(highest - before, 0)


def lines(table):
    for what in ("push", "pull"):
        if table.has(f"memory {what} ours"):
            docker = f"docker-registry {table.spread(f'memory {what} docker-registry', '{:.1f}')} MiB"
            table.at_most(f"{what} of a blob of 1 GiB: more memory at its highest", f"memory {what} ours", 64, "MiB", docker, of=max)
