"""One installation with a registry in it, and its peers, as the load sees them."""

import contextlib
import json
import shutil

from ..installation import Connection, ControlPlane, Installation, Node, basic, environment
from ..machine import Failure, run as run_program
from ..web import Nginx, load
from .docker_registry import DockerRegistry

REPOSITORY = "bench/app"
# docker-registry gives an OCI manifest only to those who say that they accept it.
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class Side:
    """A registry: where it is, and how a client of it signs in, if it has to."""

    def __init__(self, site, name, port, pid, authorization=None):
        self.site = site
        self.name = name
        self.host = f"{site.host}:{port}"
        self.address = f"127.0.0.1:{port}"
        self.pid = pid
        self.authorization = authorization

    def settings(self):
        settings = {"HOST": self.host, "ACCEPT": MANIFEST_TYPE}
        return settings | ({"AUTHORIZATION": self.authorization} if self.authorization else {})

    def wrk(self, path, connections, seconds):
        """The same GET again and again."""
        return load("report.lua", f"https://{self.address}{path}", connections, seconds, self.settings())

    def load(self, *work, repository=REPOSITORY, clients=1):
        """One run of crates/registry-node/examples/registry_load; what it printed."""
        variables = {f"BENCH_{name}": value for name, value in self.settings().items() if name == "AUTHORIZATION"}
        command = [self.site.run.example("registry_load"), "--address", self.address, "--host", self.host, "--ca", self.site.ca_file]
        command += ["--repository", repository, "--clients", str(clients), *(str(word) for word in work)]
        return json.loads(run_program(command, env=environment() | variables))

    def ask(self, path):
        """Headers and body of the answer to one GET."""
        name, port = self.host.rsplit(":", 1)
        connection = Connection(name, int(port), self.site.ca_file)
        headers = {"Accept": MANIFEST_TYPE} | ({"Authorization": self.authorization} if self.authorization else {})
        status, answer, body = connection.ask("GET", path, headers)
        connection.close()
        if status != 200:
            raise Failure(f"{self.name}: GET {path}: {status} {body[:300]!r}")
        return answer, body


class Site:
    """Ours by password and by token, and docker-registry without authentication, on the same machine; more peers when they are asked for."""

    def __init__(self, run):
        self.run = run
        self.ending = contextlib.ExitStack()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.ending.close()
            raise
        return self

    def __exit__(self, *_):
        self.ending.close()

    def start(self):
        self.installation = Installation(self.run.program)
        self.ending.callback(self.installation.remove)
        self.installation.start()
        ready = self.installation.ready
        self.ca_file = ready["ca_file"]
        self.control_plane = ControlPlane(ready)
        self.control_plane.new_group()
        registry = self.control_plane.new_registry()
        user, password = self.control_plane.new_pusher(registry)
        node = Node(ready, registry)
        self.host, _, port = node.login_server.partition(":")
        status, body = node.log_in(user, password)
        if status != 200:
            raise Failure(f"the login ends with {status}: {body[:300]!r}")
        pid = self.installation.pid(self.installation.node_role)
        self.by_token = Side(self, "ours", port, pid, "Bearer " + json.loads(body)["access_token"])
        self.by_password = Side(self, "ours by password", port, pid, basic(user, password))
        admin = self.control_plane.passwords(registry)["password"]
        self.as_admin = Side(self, "ours as administrator", port, pid, basic(registry["name"], admin))
        self.docker_storage = self.installation.directory / "docker"
        self.docker = self.docker_registry("docker-registry")

    def docker_registry(self, name, user=None):
        """One more process on the same files; with a user it asks for a password (bcrypt, cost 5)."""
        directory = self.installation.directory / name
        started = DockerRegistry(directory, self.docker_storage, self.installation.certificate, user)
        self.ending.callback(started.stop)
        side = Side(self, name, started.port, started.process.pid, started.authorization)
        started.wait(lambda: side.ask("/v2/"))
        return side

    def nginx(self, content):
        """A URL at which nginx serves these bytes."""
        directory = self.installation.directory / "peer"
        directory.mkdir(exist_ok=True)
        nginx = Nginx(directory, self.installation.certificate, content)

        def end():
            nginx.stop()
            shutil.rmtree(nginx.directory, ignore_errors=True)

        self.ending.callback(end)
        return nginx.url

    def sides(self, repetition, *sides):
        """Measures each side; who goes first changes from one repetition to the next."""
        at = repetition % len(sides)
        for name, measure in sides[at:] + sides[:at]:
            self.run.settle()
            self.run.record(name, measure())
