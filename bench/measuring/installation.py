"""The installation that is measured: `wharfinger dev` in a directory of its own, and what is made in it through its API."""

import base64
import functools
import http.client
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.parse
import uuid

from .machine import Failure, free_port, run

READY_SECONDS = 120
STOP_SECONDS = 60
TIMEOUT_SECONDS = 30
IDLE_SECONDS = 2
API_VERSION = "2025-11-01"
ACR_PUSH = "8311e382-0749-4cb8-b61a-304f252e45ec"
REGION = "westus"


class Installation:
    """One state directory; may be started and stopped many times."""

    def __init__(self, program, regions=(REGION,)):
        self.program = str(program)
        self.regions = ",".join(regions)
        # Directly below /tmp: the private Postgres runs as another user, who has to be able to walk the path.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="wharfinger-bench-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.state = self.directory / "state"
        self.ready_file = self.directory / "ready.json"
        self.output = self.directory / "output"
        self.ports = free_port(), free_port()
        self.process = None
        self.ready = None

    def start(self):
        self.ready_file.unlink(missing_ok=True)
        command = [self.program, "dev", "--state-dir", str(self.state), "--ready-file", str(self.ready_file)]
        command += ["--port", str(self.ports[0]), "--registry-port", str(self.ports[1]), "--regions", self.regions]
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(), start_new_session=True
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"wharfinger dev does not serve:\n{self.tail()}")
            time.sleep(0.05)
        self.ready = json.loads(self.ready_file.read_text())
        return self

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"wharfinger dev did not end:\n{self.tail()}") from None

    def remove(self):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def tail(self):
        files = [self.output, *sorted(self.state.glob("logs/*"))]
        texts = [f"-- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-15:]) for file in files]
        return "\n".join(texts)

    def pid(self, role):
        return self.ready["pids"][role]

    def wait_restarted(self, role, old_pid):
        """Waits until `wharfinger dev` has started a process again that ended, and it serves; returns its new id."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            # The file is written anew, in one step, when all serve again.
            self.ready = json.loads(self.ready_file.read_text())
            if self.pid(role) != old_pid:
                return self.pid(role)
            time.sleep(0.02)
        raise Failure(f"{role} was not started again:\n{self.tail()}")

    def admin(self, *arguments):
        """Runs `wharfinger admin` and returns what it printed."""
        database = ["--database-url-file", str(self.state / "database-url")]
        return run([self.program, "admin", *arguments, *database], env=environment()).strip()

    @property
    def node_role(self):
        return f"registry-node-{REGION}"

    @property
    def certificate(self):
        """The one certificate of both servers, and its key."""
        return self.state / "server.pem", self.state / "server-key.pem"


def environment():
    """Ours, without what would lead a program to another database, level of logging or proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "RUST_LOG", "SSL_CERT_FILE"}
        and not name.startswith(("WHARFINGER_", "PG", "BENCH_"))
        and not name.lower().endswith("_proxy")
    }


class Connection(http.client.HTTPSConnection):
    """A kept-alive connection to a server of this machine, by whatever name that has."""

    def __init__(self, host, port, ca_file, source="127.0.0.1"):
        super().__init__(host, port, timeout=TIMEOUT_SECONDS, context=context_of(ca_file))
        self.source = source
        self.used_at = time.monotonic()

    def connect(self):
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=self.timeout, source_address=(self.source, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)

    def ask(self, method, path, headers=None, body=None):
        """Status, headers and body of the answer."""
        # Servers close connections on which nothing came for a while.
        if time.monotonic() - self.used_at > IDLE_SECONDS:
            self.close()
        self.used_at = time.monotonic()
        self.request(method, path, body=body, headers=headers or {})
        response = self.getresponse()
        return response.status, response.headers, response.read()


@functools.cache
def context_of(ca_file):
    return ssl.create_default_context(cafile=ca_file)


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class ControlPlane:
    """The API as the bootstrap principal sees it."""

    def __init__(self, ready):
        self.ready = ready
        url = urllib.parse.urlsplit(ready["control_plane"])
        self.url = ready["control_plane"].rstrip("/")
        # The same as an address, for tools that would look the name up.
        self.address = f"https://127.0.0.1:{url.port}"
        self.connection = Connection(url.hostname, url.port, ready["ca_file"])
        self.group = f"/subscriptions/{ready['subscription_id']}/resourceGroups/bench"

    def authorization(self):
        """A new token, as a header's value."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.ready["client_id"],
            "client_secret": self.ready["client_secret"],
            "scope": f"{self.url}/.default",
        }
        status, _, body = self.connection.ask(
            "POST",
            f"/{self.ready['tenant_id']}/oauth2/v2.0/token",
            {"Content-Type": "application/x-www-form-urlencoded"},
            urllib.parse.urlencode(form).encode(),
        )
        if status != 200:
            raise Failure(f"no token: {status} {body[:500]!r}")
        return "Bearer " + json.loads(body)["access_token"]

    def expect(self, method, path, api_version, content=None):
        headers = {"Authorization": self.authorization(), "Content-Type": "application/json"}
        path = f"{path}?api-version={api_version}" if api_version else path
        status, _, body = self.connection.ask(method, path, headers, None if content is None else json.dumps(content))
        if status not in (200, 201):
            raise Failure(f"{method} {path}: {status} {body[:500]!r}")
        return json.loads(body) if body else None

    def registry_path(self, name):
        return f"{self.group}/providers/Microsoft.ContainerRegistry/registries/{name}"

    def new_group(self):
        self.expect("PUT", self.group, "2024-11-01", {"location": REGION})

    def new_registry(self, region=REGION):
        name = "bench" + secrets.token_hex(6)
        return self.expect("PUT", self.registry_path(name), API_VERSION, json.loads(registry_body(region)))

    def passwords(self, registry):
        answer = self.expect("POST", f"{registry['id']}/listCredentials", API_VERSION)
        return {entry["name"]: entry["value"] for entry in answer["passwords"]}

    def new_pusher(self, registry):
        """A service principal with the role AcrPush at the registry: its user name and password."""
        application = self.expect("POST", "/v1.0/applications", None, {"displayName": "bench"})
        principal = self.expect("POST", "/v1.0/servicePrincipals", None, {"appId": application["appId"]})
        path = f"/v1.0/applications/{application['id']}/addPassword"
        password = self.expect("POST", path, None, {"passwordCredential": {"displayName": "bench"}})
        role = f"/subscriptions/{self.ready['subscription_id']}/providers/Microsoft.Authorization/roleDefinitions/{ACR_PUSH}"
        properties = {"roleDefinitionId": role, "principalId": principal["id"], "principalType": "ServicePrincipal"}
        path = f"{registry['id']}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        self.expect("PUT", path, "2022-04-01", {"properties": properties})
        return application["appId"], password["secretText"]


def registry_body(region=REGION):
    """What `az acr create --admin-enabled true` comes to."""
    content = {"location": region, "sku": {"name": "Basic"}, "properties": {"adminUserEnabled": True}}
    return json.dumps(content)


class Node:
    """A login server, and a kept-alive connection to it: to the node that has its port, or to another one of the region."""

    def __init__(self, ready, registry, port=None, source="127.0.0.1"):
        self.login_server = registry["properties"]["loginServer"]
        host, _, own_port = self.login_server.partition(":")
        port = port or int(own_port)
        self.connection = Connection(host, port, ready["ca_file"], source)
        self.address = f"https://127.0.0.1:{port}"
        scope = urllib.parse.quote("repository:bench/app:pull,push", safe=":/,")
        self.token_path = f"/oauth2/token?service={urllib.parse.quote(self.login_server, safe=':')}&scope={scope}"

    def log_in(self, user, password):
        """Status and body of the token endpoint's answer."""
        headers = {"Authorization": basic(user, password), "Host": self.login_server}
        status, _, body = self.connection.ask("GET", self.token_path, headers)
        return status, body
