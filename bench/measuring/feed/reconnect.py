"""Many nodes that lose their control plane at once and come back to the next one, while a client reads a registry."""

import http.client
import os
import signal
import threading
import time

from ..installation import API_VERSION
from ..machine import Failure, resident_mebibytes
from .nodes import Swarm
from .run import quantile
from .site import CONTROL_PLANE, Site

SIMULATED = 300
REPETITIONS = 3
REST_SECONDS = 5
READS_AT_REST = 3000
READ_PAUSE_SECONDS = 0.0005
CURRENT_SECONDS = 60
# Fewer, in all repetitions, would say nothing about a hundredth of them.
READS_MEANWHILE = 300


def reconnect(run):
    with Site(run) as site:
        simulated = run.sized(SIMULATED, 5)
        run.record("reconnect nodes", simulated)
        swarm = site.swarm(Swarm(site.installation, run.example("node_swarm"), simulated))
        swarm.start()
        meanwhile = []
        for _ in run.repetitions(REPETITIONS):
            time.sleep(REST_SECONDS)
            run.settle()
            run.record("reconnect control plane", resident_mebibytes(site.installation.pid(CONTROL_PLANE)))
            run.record("reconnect rest p99", quantile(read(site, run.sized(READS_AT_REST, 50)), 0.99))
            meanwhile += restart(run, site, swarm)
            run.record("reconnect control plane after", resident_mebibytes(site.installation.pid(CONTROL_PLANE)))
        if len(meanwhile) < run.sized(READS_MEANWHILE):
            raise Failure(f"only {len(meanwhile)} reads were made while the nodes reconnected: too few to say anything")


def restart(run, site, swarm):
    """Kills the control plane; `wharfinger dev` starts the next one. From the moment that one serves the client reads without pause;
    returns how many milliseconds each reading took."""
    revision = site.renew().revision
    old = site.installation.pid(CONTROL_PLANE)
    os.kill(old, signal.SIGKILL)
    killed_at = time.time()
    waiting = Waiting(swarm, revision, killed_at)
    waiting.start()
    wait_until_read(site, killed_at)
    serving_at = time.time()
    taken = read(site, 1)
    while waiting.is_alive():
        taken += read(site, 1)
        if time.time() - killed_at > CURRENT_SECONDS:
            raise Failure(f"the nodes are not current {CURRENT_SECONDS} seconds after the control plane ended")
    if waiting.failure:
        raise waiting.failure
    site.installation.wait_restarted(CONTROL_PLANE, old)
    complete_at = wait_until_complete(site, killed_at)
    run.record("reconnect serving seconds", serving_at - killed_at)
    run.record("reconnect current seconds", waiting.current_at - killed_at)
    run.record("reconnect complete seconds", complete_at - killed_at)
    run.record("reconnect reads", len(taken))
    run.record("reconnect meanwhile p99", quantile(taken, 0.99))
    run.record("reconnect meanwhile maximum", max(taken))
    return taken


def wait_until_read(site, since):
    """Until the next control plane answers for the first time."""
    site.control_plane.connection.close()
    while time.time() - since < CURRENT_SECONDS:
        try:
            read(site, 1)
            return
        except (OSError, http.client.HTTPException):
            site.control_plane.connection.close()
            time.sleep(0.01)
    raise Failure("the control plane does not answer again")


def wait_until_complete(site, since):
    """The time of the first change that every node has: the real one may have come back later than the simulated ones."""
    while time.time() - since < CURRENT_SECONDS:
        if site.renew().outcome == "complete":
            return time.time()
    raise Failure("no change is complete after the nodes had reconnected")


class Waiting(threading.Thread):
    """Waits until all simulated nodes are connected again, have the revision and were vouched for by the new control plane."""

    def __init__(self, swarm, revision, since):
        super().__init__(daemon=True)
        self.swarm, self.revision, self.since = swarm, revision, since
        self.current_at = self.failure = None

    def run(self):
        try:
            self.current_at = self.swarm.wait_current(self.revision, self.since)
        except Exception as failure:
            self.failure = failure


def read(site, count):
    """Milliseconds of each GET of the registry, one after the other."""
    path, headers = f"{site.registry['id']}?api-version={API_VERSION}", site.headers()
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        status, _, body = site.control_plane.connection.ask("GET", path, headers)
        taken.append((time.perf_counter() - began) * 1000)
        if status != 200:
            raise Failure(f"a GET of a registry ended with {status}: {body[:200]!r}")
        time.sleep(READ_PAUSE_SECONDS)
    return taken
