"""An installation for one row: a registry, its real nodes, and renewals of its password that are held against what every node does."""

import contextlib
import json
import secrets
import time
from typing import NamedTuple

from ..installation import API_VERSION, ControlPlane, Installation
from ..machine import Failure
from .nodes import DevNode, Door, RealNode

PROPAGATION, MISSING, REVISION = "x-wharfinger-propagation", "x-wharfinger-missing", "x-wharfinger-revision"
TOKEN_SECONDS = 600
# The process, as the ready file names it.
CONTROL_PLANE = "control-plane"


class Renewal(NamedTuple):
    """A renewal of a password, with monotonic times."""

    began: float
    answered: float
    outcome: str
    missing: frozenset
    revision: int
    old: str
    new: str

    @property
    def milliseconds(self):
        return (self.answered - self.began) * 1000


class Site(contextlib.ExitStack):
    def __init__(self, run, real_nodes=1):
        super().__init__()
        self.run = run
        self.installation = Installation(run.program)
        self.callback(self.installation.remove)
        try:
            self._prepare(real_nodes)
        except BaseException:
            self.close()
            raise

    def _prepare(self, real_nodes):
        self.installation.start()
        self.control_plane = ControlPlane(self.installation.ready)
        self.control_plane.new_group()
        self.registry = self.control_plane.new_registry()
        self.password = self.control_plane.passwords(self.registry)["password"]
        self.token = None
        self.nodes = [DevNode(self.installation)]
        for number in range(1, real_nodes):
            node = RealNode(self.installation, number)
            self.callback(node.stop)
            node.start().wait_ready()
            self.nodes.append(node)
        self.doors = [Door(self.installation, self.registry, node) for node in self.nodes]

    def swarm(self, swarm):
        """Takes care that simulated nodes end with the installation."""
        self.callback(swarm.stop)
        return swarm

    def headers(self):
        now = time.monotonic()
        if self.token is None or now - self.token[1] > TOKEN_SECONDS:
            self.token = self.control_plane.authorization(), now
        return {"Authorization": self.token[0], "Content-Type": "application/json"}

    def ids(self):
        """The node ids of the real nodes, in the order of `nodes`."""
        listed = self.control_plane.expect("GET", "/config/v1/nodes", None)["nodes"]
        by_port = {node["address"].rpartition(":")[2]: node["nodeId"] for node in listed}
        return [by_port[str(node.port)] for node in self.nodes]

    def renew(self):
        """Renews the first password of the registry's admin account."""
        path = f"{self.registry['id']}/regenerateCredential?api-version={API_VERSION}"
        headers, old = self.headers(), self.password
        began = time.monotonic()
        status, answer, body = self.control_plane.connection.ask("POST", path, headers, b'{"name":"password"}')
        answered = time.monotonic()
        if status != 200 or answer[PROPAGATION] is None:
            raise Failure(f"a renewal ended with {status}: {answer.items()} {body[:200]!r}")
        self.password = next(entry["value"] for entry in json.loads(body)["passwords"] if entry["name"] == "password")
        missing = frozenset(filter(None, (answer[MISSING] or "").split(", ")))
        return Renewal(began, answered, answer[PROPAGATION], missing, int(answer[REVISION]), old, self.password)

    def renew_everywhere(self, count, tried_old):
        """Milliseconds of each of so many renewals. Each must be complete, the new password good at every real node at once, and
        the old one (tried for the first ones only: failed logins are limited) refused."""
        taken = []
        for number in range(count):
            renewal = self.renew()
            if renewal.outcome != "complete":
                raise Failure(f"a renewal was not in force: {renewal.outcome}, missing {sorted(renewal.missing)}")
            taken.append(renewal.milliseconds)
            for door in self.doors:
                if door.accepts(self.registry["name"], renewal.new) is not True:
                    raise Failure("a new password was refused just after a renewal that was complete")
                if number < tried_old and self.accepts_old(door, renewal) is not False:
                    raise Failure("an old password was accepted just after a renewal that was complete")
        return taken

    def accepts_old(self, door, renewal):
        return door.accepts_old(self.registry["name"], renewal.old, fresh_address())


def fresh_address():
    """An address of this machine from which nobody has failed to log in."""
    return "127." + ".".join(str(byte % 254 + 1) for byte in secrets.token_bytes(3))
