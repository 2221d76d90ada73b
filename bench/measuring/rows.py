"""What is measured. Each row measures its sides one after the other, in another order at each repetition."""

import json
import secrets
import time

from .installation import API_VERSION, Installation, Node, basic, registry_body
from .machine import Failure, resident_mebibytes, run
from .postgres import PLAIN, Scripts
from .web import Nginx, load

CLIENTS = 8
LOGIN_CONNECTIONS = 16
RENEWALS = 300
# How many old passwords a repetition tries at the node: failed logins are limited.
OLD_PASSWORDS_TRIED = 3
REST_SECONDS = 5


class Bench:
    """What the rows share: one installation with a registry, its peers, and the samples taken so far."""

    def __init__(self, options, surroundings):
        self.options = options
        self.surroundings = surroundings
        self.samples = {}
        self.installation = None
        self.nginx = None

    def record(self, name, value):
        self.samples.setdefault(name, []).append(value)

    def sides(self, repetition, *sides):
        """Measures each side; who goes first changes from one repetition to the next."""
        at = repetition % len(sides)
        for name, measure in sides[at:] + sides[:at]:
            self.surroundings.settle()
            self.record(name, measure())

    def rest(self):
        """Memory of both processes some seconds after a start, once with an empty state directory and then warm."""
        installation = Installation(self.options.programs / "wharfinger")
        try:
            for _ in range(self.options.repetitions):
                installation.start()
                time.sleep(REST_SECONDS)
                self.record("rest control plane", resident_mebibytes(installation.pid("control-plane")))
                self.record("rest node", resident_mebibytes(installation.pid(installation.node_role)))
                installation.stop()
        finally:
            installation.remove()

    def after_load(self):
        """The same at the end, for the record."""
        time.sleep(REST_SECONDS)
        self.record("loaded control plane", resident_mebibytes(self.installation.pid("control-plane")))
        self.record("loaded node", resident_mebibytes(self.installation.pid(self.installation.node_role)))

    # GET of a registry

    def show(self, repetition):
        postgres, seconds = self.postgres, self.options.seconds
        self.sides(
            repetition,
            ("show product", self._show),
            ("show pgbench", lambda: postgres.select(seconds, PLAIN)),
            ("show pgbench tls", lambda: postgres.with_tls(lambda tls: postgres.select(seconds, tls))),
            ("show same statement", lambda: postgres.script(self.scripts.show(), seconds, PLAIN)),
        )

    def _show(self):
        settings = {"AUTHORIZATION": self.control_plane.authorization()}
        url = f"{self.control_plane.address}{self.registry['id']}?api-version={API_VERSION}"
        result = load("report.lua", url, CLIENTS, self.options.seconds, settings)
        self.record("show p99 milliseconds", result["p99"] / 1000)
        return result["per_second"]

    # Creation of registries

    def create(self, repetition):
        postgres, script = self.postgres, self.scripts.create()
        self.sides(
            repetition,
            ("create product", self._create),
            ("create pgbench", lambda: self._create_by_pgbench(script, PLAIN)),
            ("create pgbench tls", lambda: postgres.with_tls(lambda tls: self._create_by_pgbench(script, tls))),
        )

    def _create_by_pgbench(self, script, security):
        self._checkpoint()
        return self.postgres.script(script, self.options.seconds, security)

    def _checkpoint(self):
        """Otherwise one side would pay for what the other wrote."""
        self.postgres.sql("CHECKPOINT")

    def _create(self):
        self._checkpoint()
        settings = {
            "AUTHORIZATION": self.control_plane.authorization(),
            "PATH": self.control_plane.registry_path(""),
            "QUERY": f"?api-version={API_VERSION}",
            "PREFIX": "b" + secrets.token_hex(4),
            "BODY": registry_body(),
        }
        result = load("create.lua", self.control_plane.address, CLIENTS, self.options.seconds, settings)
        # Of the last ones the answers were not waited for.
        if result["created"] < result["requests"] or result["complete"] < result["created"]:
            raise Failure(f"not every registry was created and in force: {result}")
        self.record("create p50 milliseconds", result["p50"] / 1000)
        self.record("create p99 milliseconds", result["p99"] / 1000)
        self.record("created", result["created"])
        return result["per_second"]

    # Renewal of a password

    def renew(self, repetition):
        postgres, script = self.postgres, self.scripts.renew()

        def by_pgbench(security):
            return postgres.latencies(script, RENEWALS, security)

        self.sides(
            repetition,
            ("renew product", lambda: self._latencies("renew product", self._renew())),
            ("renew pgbench", lambda: self._latencies("renew pgbench", by_pgbench(PLAIN))),
            ("renew pgbench tls", lambda: self._latencies("renew pgbench tls", postgres.with_tls(by_pgbench))),
        )

    def _latencies(self, name, milliseconds):
        """The median; the 99th percentile is recorded beside it."""
        ordered = sorted(milliseconds)
        self.record(f"{name} p99", ordered[round(0.99 * (len(ordered) - 1))])
        return ordered[len(ordered) // 2]

    def _renew(self):
        """Milliseconds of each renewal; the new password is used at the node at once, and some old ones are refused."""
        path = f"{self.registry['id']}/regenerateCredential?api-version={API_VERSION}"
        headers = {"Authorization": self.control_plane.authorization(), "Content-Type": "application/json"}
        connection, name = self.control_plane.connection, self.registry["name"]
        old = self.control_plane.passwords(self.registry)["password"]
        taken = []
        for number in range(RENEWALS):
            began = time.perf_counter_ns()
            status, answer, body = connection.ask("POST", path, headers, b'{"name":"password"}')
            taken.append((time.perf_counter_ns() - began) / 1_000_000)
            if status != 200 or answer["x-wharfinger-propagation"] != "complete":
                raise Failure(f"a renewal was not in force: {status} {answer.items()} {body[:200]!r}")
            new = next(entry["value"] for entry in json.loads(body)["passwords"] if entry["name"] == "password")
            self._expect_login(200, name, new)
            if number < OLD_PASSWORDS_TRIED:
                self._expect_login(401, name, old)
            old = new
        return taken

    def _expect_login(self, wanted, user, password):
        status, _ = self.node.log_in(user, password)
        if status != wanted:
            raise Failure(f"a login just after a renewal ended with {status} and not with {wanted}")

    # Login through the token endpoint

    def login(self, repetition):
        seconds = self.options.seconds
        admin = self.control_plane.passwords(self.registry)["password2"]
        self.sides(
            repetition,
            ("login product", lambda: self._log_in(self.registry["name"], admin)),
            ("login principal", lambda: self._log_in(*self.pusher)),
            ("login nginx", lambda: load("report.lua", self.nginx.url, LOGIN_CONNECTIONS, seconds, {})["per_second"]),
        )

    def _log_in(self, user, password):
        settings = {"AUTHORIZATION": basic(user, password), "HOST": self.node.login_server}
        url = self.node.address + self.node.token_path
        result = load("report.lua", url, LOGIN_CONNECTIONS, self.options.seconds, settings)
        self.record("login p99 milliseconds", result["p99"] / 1000)
        return result["per_second"]

    # The index

    def index(self, repetition):
        self.surroundings.settle()
        result = json.loads(run([str(self.options.programs / "examples" / "index_scale")]))
        sizes = [result[what] for what in ("registries", "principals", "role_assignments")]
        if sizes != [100_000, 100_000, 200_000]:
            raise Failure(f"the index has other sizes: {sizes}")
        for what in ("decision", "change", "addition"):
            for quantile in ("median", "p99", "maximum"):
                self.record(f"index {what} {quantile}", result[f"{what}_nanoseconds"][quantile] / 1000)
        self.record("index mebibytes", result["index_bytes"] / 1024 / 1024)

    # All of it

    def prepare(self, control_plane_of, postgres_of):
        self.installation = Installation(self.options.programs / "wharfinger").start()
        ready = self.installation.ready
        self.control_plane = control_plane_of(ready)
        self.control_plane.new_group()
        self.registry = self.control_plane.new_registry()
        self.pusher = self.control_plane.new_pusher(self.registry)
        self.node = Node(ready, self.registry)
        self.postgres = postgres_of(self.installation)
        self.postgres.prepare_select()
        self.postgres.copy_installation()
        self.scripts = Scripts(self.postgres, ready, self.registry, self.installation.directory)
        status, token = self.node.log_in(*self.pusher)
        if status != 200:
            raise Failure(f"the login to be measured ends with {status}: {token[:300]!r}")
        self.record("login bytes", len(token))
        self.nginx = Nginx(self.installation.directory, self.installation.certificate, token)

    def end(self):
        """Ends what was started; may be called twice."""
        if self.nginx is not None:
            self.nginx.stop()
            self.nginx = None
        if self.installation is not None:
            self.installation.remove()
            self.installation = None
