"""Pushes beside the collection of a registry with many blobs."""

import contextlib
import subprocess

from ..installation import REGION, environment
from ..machine import Failure
from .site import Site

BLOBS = 100_000
CLIENTS = 4
# As the row about pushes has them.
IMAGE_BLOBS, IMAGE_BLOB_BYTES = 2, 1024


def measure(run):
    with Site(run) as site:
        push(site, run)
        content = site.installation.state / f"content-{REGION}"
        (registry,) = (content / "r").iterdir()
        of = ["--content-dir", str(content), "--registry", registry.name]
        program = site.run.example("content_scale")
        subprocess.run([program, *of, "fill", "--blobs", str(run.sized(BLOBS, 1000))], check=True, env=environment())
        for repetition in run.repetitions(run.options.repetitions):
            site.sides(
                repetition,
                ("collection alone", lambda: push(site, run)),
                ("collection beside", lambda: beside(site, run, [program, *of, "collect"])),
            )


def push(site, run):
    work = ("push", "--blobs", IMAGE_BLOBS, "--blob-bytes", IMAGE_BLOB_BYTES, "--seconds", run.options.seconds)
    return site.by_token.load(*work, clients=CLIENTS)["per_second"]


def beside(site, run, command):
    """The same while another process collects the registry as a node does."""
    with contextlib.ExitStack() as ending:
        collecting = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment())
        ending.callback(collecting.wait)
        ending.callback(collecting.terminate)
        rate = push(site, run)
        if collecting.poll() is not None:
            raise Failure(f"the collection ended with {collecting.returncode}")
        return rate


def lines(table):
    what = f"push of a tiny image beside the collection of a registry with {BLOBS:,} blobs / without it"
    table.ratio(what, "collection beside", "collection alone", 0.8, "pushes/s")
