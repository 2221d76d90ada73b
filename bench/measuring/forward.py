"""Blobs of a registry that lives in another region: asked for at a node there, and at a node that forwards, all on this machine."""

import hashlib
import json
import secrets

from .installation import REGION, ControlPlane, Installation, Node
from .machine import Failure
from .web import load

FAR_REGION = "northeurope"
CONNECTIONS = 8
MEBIBYTE = 1024 * 1024
LARGE_BYTES, SMALL_BYTES = 16 * MEBIBYTE, 4096


def forward(run):
    installation = Installation(run.program, [REGION, FAR_REGION])
    try:
        measure(run, installation.start())
    finally:
        installation.remove()


def measure(run, installation):
    ready = installation.ready
    control_plane = ControlPlane(ready)
    control_plane.new_group()
    registry = control_plane.new_registry(FAR_REGION)
    there = Node(ready, registry, int(ready["regions"][FAR_REGION][0].rpartition(":")[2]))
    # The login servers' port is that of a node of the other region.
    here = Node(ready, registry)
    status, body = here.log_in(registry["name"], control_plane.passwords(registry)["password"])
    if status != 200:
        raise Failure(f"the login ends with {status}: {body[:300]!r}")
    settings = {"AUTHORIZATION": "Bearer " + json.loads(body)["access_token"], "HOST": here.login_server}
    blobs = {"large": push(here, settings, LARGE_BYTES), "small": push(here, settings, SMALL_BYTES)}
    nodes = {"forwarded": here, "direct": there}
    for repetition in run.repetitions(run.options.repetitions):
        for size, path in blobs.items():
            sides = list(nodes.items())
            for side, node in sides if repetition % 2 == 0 else reversed(sides):
                run.settle()
                result = load("report.lua", node.address + path, CONNECTIONS, run.options.seconds, settings)
                run.record(f"forward {size} {side}", result["per_second"] * (LARGE_BYTES / MEBIBYTE if size == "large" else 1))
                run.record(f"forward {size} {side} p50", result["p50"] / 1000)


def push(node, settings, size):
    """Pushes random bytes and returns the path at which they are read."""
    content = secrets.token_bytes(size)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    headers = {"Authorization": settings["AUTHORIZATION"], "Host": settings["HOST"], "Content-Type": "application/octet-stream"}
    status, _, body = node.connection.ask("POST", f"/v2/bench/app/blobs/uploads/?digest={digest}", headers, content)
    if status != 201:
        raise Failure(f"a push ends with {status}: {body[:300]!r}")
    return f"/v2/bench/app/blobs/{digest}"


def lines(table):
    if not table.has("forward large direct"):
        return
    what = "GET of a blob of 16 MiB through a node of another region / at its home, all on this machine"
    table.ratio(what, "forward large forwarded", "forward large direct", 0.5, "MiB/s")
    more = f"p50 {table.spread('forward small forwarded p50', '{:.1f}')} / {table.spread('forward small direct p50', '{:.1f}')} ms"
    table.ratio("the same, 4 KiB", "forward small forwarded", "forward small direct", None, "requests/s", more)
