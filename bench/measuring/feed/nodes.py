"""Nodes beside the one that `wharfinger dev` starts: real ones, with an operator's flags, and many simulated ones in one process."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import queue
import signal
import ssl
import subprocess
import threading
import time
import urllib.parse

from ..installation import READY_SECONDS, REGION, STOP_SECONDS, Node, environment
from ..machine import Failure, free_port

POLL_SECONDS = 0.005
TOKENS_AT_ONCE = 2


def join_token(installation, region):
    return installation.admin("node", "create", "--region", region)


class DevNode:
    """The node that `wharfinger dev` starts, and starts again when it ends."""

    def __init__(self, installation):
        self.installation = installation
        self.role = installation.node_role
        self.port = installation.ports[1]
        self.metrics_port = urllib.parse.urlsplit(installation.ready["metrics"][self.role]).port

    @property
    def pid(self):
        return self.installation.pid(self.role)

    def stop(self, how=signal.SIGTERM):
        """Ends the process and returns when it is gone; `start` waits for the next one."""
        self.ended = self.pid
        os.kill(self.ended, how)
        deadline = time.monotonic() + STOP_SECONDS
        # Its parent looks after it, so that it does not stay behind as a dead entry.
        while pathlib.Path(f"/proc/{self.ended}").exists():
            if time.monotonic() > deadline:
                raise Failure(f"the node did not end:\n{self.installation.tail()}")
            time.sleep(POLL_SECONDS)

    def start(self):
        pass

    def wait_ready(self):
        """Returns when it serves, with the time."""
        served_at = wait_ready(self)
        self.installation.wait_restarted(self.role, self.ended)
        return served_at

    def tail(self):
        return self.installation.tail()


class RealNode:
    """One more node of the region; it shares the region's content with the others."""

    def __init__(self, installation, number):
        self.installation = installation
        self.directory = installation.directory / f"node-{number}"
        self.directory.mkdir(mode=0o700)
        self.log = self.directory / "log"
        self.port, self.metrics_port = free_port(), free_port()
        self.token_file = self.directory / "join-token"
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(join_token(installation, REGION))
        self.has_joined = False
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        ready, state = self.installation.ready, self.installation.state
        certificate, key = self.installation.certificate
        command = [self.installation.program, "registry-node", "--region", REGION]
        command += ["--state-dir", str(self.directory / "state"), "--content-dir", str(state / f"content-{REGION}")]
        command += ["--control-plane", ready["control_plane"], "--control-plane-ca", ready["ca_file"]]
        command += ["--listen", f"127.0.0.1:{self.port}", "--advertised-address", f"localhost:{self.port}"]
        command += ["--tls-certificate", str(certificate), "--tls-key", str(key)]
        command += ["--metrics-listen", f"127.0.0.1:{self.metrics_port}"]
        if not self.has_joined:
            command += ["--join-token-file", str(self.token_file)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment())
        return self

    def wait_ready(self):
        served_at = wait_ready(self)
        self.has_joined = True
        return served_at

    def stop(self, how=signal.SIGTERM):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"a node did not end:\n{self.tail()}") from None

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def wait_ready(node):
    """The moment at which `/readyz` says that the node serves."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", node.metrics_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return time.monotonic()
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(POLL_SECONDS)
    raise Failure(f"a node does not serve:\n{node.tail()}")


class Door:
    """A registry's way in at one node."""

    def __init__(self, installation, registry, node):
        self.installation = installation
        self.registry = registry
        self.node = node
        self.kept = Node(installation.ready, registry, node.port)

    def accepts(self, user, password):
        """Whether the node lets this password in; `None` from a node that does not serve, or stops."""
        return self._ask(self.kept, user, password)

    def accepts_old(self, user, password, source):
        """The same, from an address of its own: failed logins are limited."""
        other = Node(self.installation.ready, self.registry, self.node.port, source)
        try:
            return self._ask(other, user, password)
        finally:
            other.connection.close()

    def _ask(self, way, user, password):
        try:
            status, body = way.log_in(user, password)
        except (OSError, http.client.HTTPException, ssl.SSLError):
            way.connection.close()
            return None
        if status == 503:
            return None
        if status not in (200, 401):
            raise Failure(f"a login ended with {status}: {body[:200]!r}")
        return status == 200


class Swarm:
    """Simulated nodes, all in one process: `crates/registry-node/examples/node_swarm/`."""

    def __init__(self, installation, program, count, region=REGION, light=False):
        self.installation = installation
        self.program = program
        self.count = count
        self.region = region
        self.light = light
        self.directory = installation.directory / f"swarm-{region}"
        self.directory.mkdir(mode=0o700)
        self.log = self.directory / "log"
        self.tokens = None
        self.process = None

    def start(self, delayed=0, round_trip_milliseconds=0):
        """Returns, when all nodes are current, how many seconds that took after they had joined."""
        if self.tokens is None:
            self.tokens = self.directory / "join-tokens"
            self.tokens.touch(mode=0o600)
            with concurrent.futures.ThreadPoolExecutor(TOKENS_AT_ONCE) as pool:
                made = pool.map(lambda _: join_token(self.installation, self.region), range(self.count))
                self.tokens.write_text("\n".join(made) + "\n")
        ready = self.installation.ready
        command = [self.program, "--control-plane", ready["control_plane"], "--control-plane-ca", ready["ca_file"]]
        command += ["--region", self.region, "--nodes", str(self.count), "--join-tokens", str(self.tokens)]
        command += ["--state-dir", str(self.directory / "state")]
        if self.light:
            command += ["--light"]
        if delayed:
            command += ["--delayed", str(delayed), "--round-trip-milliseconds", str(round_trip_milliseconds)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1,
                env=environment() | {"RUST_LOG": "error"},
            )  # fmt: skip
        self.said = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(self.process.stdout, self.said), daemon=True).start()
        said = self._next("current")
        if said["nodes"] != self.count:
            raise Failure(f"{said['nodes']} simulated nodes are current, and not {self.count}")
        return said["milliseconds"] / 1000

    @staticmethod
    def _listen(output, said):
        for line in output:
            said.put(json.loads(line))
        said.put(None)

    def _next(self, event):
        try:
            said = self.said.get(timeout=READY_SECONDS)
        except queue.Empty:
            said = {"event": f"nothing for {READY_SECONDS} seconds"}
        if said is None or said["event"] != event:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
            raise Failure(f"the simulated nodes said {said and said['event']} and not {event}:\n{tail}")
        return said

    def wait_current(self, revision, since):
        """When (Unix time) all were connected, had the revision, and were vouched for after `since`."""
        return self._ask(f"wait {revision} {since}", "waited")["unix_seconds"]

    def positions(self):
        """How far each has come; every one must have understood everything."""
        nodes = self._ask("positions", "positions")["nodes"]
        if any(node["rejected"] for node in nodes):
            raise Failure(f"simulated nodes do not understand documents: {nodes[:3]}")
        return nodes

    def _ask(self, command, event):
        self.process.stdin.write(command + "\n")
        return self._next(event)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
