"""A node with a large configuration: its memory, and its restart without and beside a control plane."""

import json
import os
import pathlib
import re
import signal
import time

from ..installation import REGION, environment
from ..machine import Failure, resident_mebibytes, run as run_program
from .site import CONTROL_PLANE, Site

REGISTRIES = 100_000
PRINCIPALS = 100_000
ASSIGNMENTS = 1_000_000
REPETITIONS = 3
CATCH_UP_SECONDS = 300
CURRENT_SECONDS = 30
POLL_SECONDS = 0.01


def scale(run):
    with Site(run) as site:
        node, door = site.nodes[0], site.doors[0]
        publish(run, site)
        run.record("scale after publishing mebibytes", resident_mebibytes(node.pid))
        for _ in run.repetitions(REPETITIONS):
            for name, how in (("scale", signal.SIGTERM), ("scale killed", signal.SIGKILL)):
                run.settle()
                restart_alone(run, site, node, door, name, how)
            run.record("scale mebibytes", resident_mebibytes(node.pid))
            run.record("scale peak mebibytes", peak_mebibytes(node.pid))
            run.record("scale beside seconds", restart_beside(site, node, door))


def publish(run, site):
    """Publishes the documents, and waits until the node has them."""
    sizes = [run.sized(size, 100) for size in (REGISTRIES, PRINCIPALS, ASSIGNMENTS)]
    url = site.installation.ready["database_url"]
    command = [run.example("publish_scale"), REGION, *map(str, sizes)]
    published = json.loads(run_program(command, env=environment() | {"DATABASE_URL": url}))
    began = time.monotonic()
    wait_until_complete(site, CATCH_UP_SECONDS)
    run.record("scale catch-up seconds", time.monotonic() - began)
    run.record("scale publishing seconds", published["seconds"])
    run.record("scale documents", published["documents"])
    listed = site.control_plane.expect("GET", "/config/v1/nodes", None)["nodes"]
    if any(node["rejected"] for node in listed):
        raise Failure(f"documents are not understood: {listed}")


def wait_until_complete(site, seconds):
    """When the first change was in force at the node."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        renewal = site.renew()
        if renewal.outcome == "complete":
            return renewal
    raise Failure(f"the node is not current after {seconds} seconds")


def restart_alone(run, site, node, door, name, how):
    """Restarts the node while the control plane does nothing: it has to serve from its copy. Then lets the control plane go on."""
    control_plane = site.installation.pid(CONTROL_PLANE)
    site.headers()
    os.kill(control_plane, signal.SIGSTOP)
    try:
        node.stop(how)
        gone_at = time.monotonic()
        served_at = wait_until_accepted(site, node, door)
    finally:
        os.kill(control_plane, signal.SIGCONT)
    resumed_at = time.monotonic()
    renewal = wait_until_complete(site, CURRENT_SECONDS)
    if door.accepts(site.registry["name"], renewal.new) is not True or site.accepts_old(door, renewal) is not False:
        raise Failure("the node does not do what the first complete change after its restart says")
    node.wait_ready()
    run.record(f"{name} serves seconds", served_at - gone_at)
    run.record(f"{name} current seconds", renewal.answered - resumed_at)


def restart_beside(site, node, door):
    """Seconds until the node serves when a control plane answers: it is current then."""
    node.stop()
    gone_at = time.monotonic()
    served_at = wait_until_accepted(site, node, door)
    node.wait_ready()
    return served_at - gone_at


def wait_until_accepted(site, node, door):
    """When the node let the password in for the first time."""
    deadline = time.monotonic() + CURRENT_SECONDS
    while time.monotonic() < deadline:
        if door.accepts(site.registry["name"], site.password):
            return time.monotonic()
        time.sleep(POLL_SECONDS)
    raise Failure(f"the node does not serve within {CURRENT_SECONDS} seconds:\n{node.tail()}")


def peak_mebibytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE).group(1)) / 1024
