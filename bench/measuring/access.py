"""Who may do what: tokens, decisions for callers with many assignments or groups, and a change of a group that is nested deeply."""

import base64
import json
import re
import time
import urllib.parse
import uuid

from .feed.run import quantile
from .installation import API_VERSION, REGION, ControlPlane, Installation, Node
from .machine import Failure, run as run_program
from .postgres import Postgres
from .web import load

CONNECTIONS = 8
READER = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
ASSIGNMENTS, GROUPS = (1, 100, 10_000), (1, 100, 1_000)
# Scopes that the registry has nothing to do with; each principal holds many roles at each.
SCOPES = 500
DEPTH, MEMBERS, CHANGES = 10, 10_000, 200


def access(run):
    installation = Installation(run.program)
    try:
        Measurement(run, installation.start()).all()
    finally:
        installation.remove()


class Measurement:
    def __init__(self, run, installation):
        self.run = run
        self.installation = installation
        self.ready = installation.ready
        self.control_plane = ControlPlane(self.ready)
        self.control_plane.new_group()
        self.registry = self.control_plane.new_registry()
        self.token = None

    def all(self):
        by_assignments = {count: self.caller_with_assignments(self.run.sized(count)) for count in ASSIGNMENTS}
        by_groups = {count: self.caller_with_groups(self.run.sized(count)) for count in GROUPS}
        member, inner, outer = self.nest()
        for repetition in self.run.repetitions(self.run.options.repetitions):
            self.run.settle()
            self.run.record("access signatures", signatures(self.run.options.seconds))
            self.run.record("access tokens", self.tokens())
            self.reads(repetition, "assignments", by_assignments)
            self.reads(repetition, "groups", by_groups)
            self.memberships(member, inner, outer)

    # What is made before

    def ask(self, method, path, content=None, api_version=None):
        """A request whose answer is expected to be a success; its headers and body."""
        if self.token is None or time.monotonic() - self.token[1] > 600:
            self.token = self.control_plane.authorization(), time.monotonic()
        headers = {"Authorization": self.token[0], "Content-Type": "application/json"}
        path = f"{path}?api-version={api_version}" if api_version else path
        body = None if content is None else json.dumps(content)
        status, answer, body = self.control_plane.connection.ask(method, path, headers, body)
        if not 200 <= status < 300:
            raise Failure(f"{method} {path}: {status} {body[:300]!r}")
        return answer, json.loads(body) if body else None

    def new_principal(self):
        """A service principal: object id, application id."""
        _, application = self.ask("POST", "/v1.0/applications", {"displayName": "bench"})
        _, principal = self.ask("POST", "/v1.0/servicePrincipals", {"appId": application["appId"]})
        return principal["id"], application

    def new_caller(self):
        """A service principal that signs in: object id and header."""
        principal, application = self.new_principal()
        path = f"/v1.0/applications/{application['id']}/addPassword"
        _, password = self.ask("POST", path, {"passwordCredential": {"displayName": "bench"}})
        ready = self.ready | {"client_id": application["appId"], "client_secret": password["secretText"]}
        return principal, application["appId"], password["secretText"], ControlPlane(ready)

    def new_group(self, name):
        _, group = self.ask("POST", "/v1.0/groups", {
            "displayName": name, "mailNickname": name, "mailEnabled": False, "securityEnabled": True,
        })  # fmt: skip
        return group["id"]

    def add_member(self, group, member):
        path = f"/v1.0/groups/{group}/members/$ref"
        return self.ask("POST", path, {"@odata.id": f"{self.control_plane.url}/v1.0/directoryObjects/{member}"})[0]

    def assign(self, scope, role, principal, kind="ServicePrincipal"):
        definition = f"/subscriptions/{self.ready['subscription_id']}/providers/Microsoft.Authorization/roleDefinitions/{role}"
        path = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        properties = {"roleDefinitionId": definition, "principalId": principal, "principalType": kind}
        self.ask("PUT", path, {"properties": properties}, "2022-04-01")

    def caller_with_assignments(self, count):
        """May read the registry, and holds so many roles elsewhere."""
        principal, *_, caller = self.new_caller()
        self.assign(self.registry["id"], READER, principal)
        _, listed = self.ask("GET", f"/subscriptions/{self.ready['subscription_id']}/providers/Microsoft.Authorization/roleDefinitions",
                             api_version="2022-05-01-preview")  # fmt: skip
        roles = [role["name"] for role in listed["value"]]
        for number in range(count):
            scope = f"/subscriptions/{self.ready['subscription_id']}/resourceGroups/elsewhere-{number % SCOPES}"
            if number < SCOPES:
                self.ask("PUT", scope, {"location": REGION}, "2024-11-01")
            self.assign(scope, roles[number // SCOPES], principal)
        return caller

    def caller_with_groups(self, count):
        """May read the registry by a group, and is in so many."""
        principal, *_, caller = self.new_caller()
        for number in range(count):
            group = self.new_group(f"of-{count}-{number}")
            self.add_member(group, principal)
        self.assign(self.registry["id"], READER, group, "Group")
        return caller

    def nest(self):
        """Groups in groups: the innermost has many members, the outermost may pull. One member, and the two innermost groups."""
        groups = [self.new_group(f"level-{level}") for level in range(DEPTH)]
        for inner, outer in zip(groups, groups[1:]):
            self.add_member(outer, inner)
        self.assign(self.registry["id"], ACR_PULL, groups[-1], "Group")
        principal, app_id, secret, _ = self.new_caller()
        self.add_member(groups[0], principal)
        for _ in range(self.run.sized(MEMBERS) - 1):
            other, _ = self.new_principal()
            self.add_member(groups[0], other)
        return (app_id, secret), groups[0], groups[1]

    # What is measured

    def tokens(self):
        """Access tokens a second at the token endpoint."""
        form = urllib.parse.urlencode({
            "grant_type": "client_credentials", "client_id": self.ready["client_id"],
            "client_secret": self.ready["client_secret"], "scope": f"{self.control_plane.url}/.default",
        })  # fmt: skip
        url = f"{self.control_plane.address}/{self.ready['tenant_id']}/oauth2/v2.0/token"
        return load("report.lua", url, CONNECTIONS, self.run.options.seconds, {"FORM": form})["per_second"]

    def reads(self, repetition, what, callers):
        """GET of the registry by each caller, in turns."""
        sides = list(callers.items())
        at = repetition % len(sides)
        for count, caller in sides[at:] + sides[:at]:
            self.run.settle()
            settings = {"AUTHORIZATION": caller.authorization()}
            url = f"{caller.address}{self.registry['id']}?api-version={API_VERSION}"
            result = load("report.lua", url, CONNECTIONS, self.run.options.seconds, settings)
            self.run.record(f"access {what} {count}", 1_000_000 / result["per_second"])

    def memberships(self, member, inner, outer):
        """The innermost group leaves the one around it and comes back, again and again: ten thousand people lose and get their right."""
        postgres, node = Postgres(self.installation), Node(self.ready, self.registry)
        path = f"/v1.0/groups/{outer}/members/{inner}/$ref"
        taken = []
        self.run.settle()
        for number in range(self.run.sized(CHANGES, 4)):
            began = time.perf_counter_ns()
            headers = self.add_member(outer, inner) if number % 2 else self.ask("DELETE", path)[0]
            taken.append((time.perf_counter_ns() - began) / 1_000_000)
            if headers["x-wharfinger-propagation"] != "complete":
                raise Failure(f"a change of a membership was not in force: {headers.items()}")
            if number < 2:
                revision = int(headers["x-wharfinger-revision"])
                documents = postgres.sql(f"SELECT count(*) FROM config_documents WHERE revision = {revision}")
                self.run.record("access documents", int(documents))
                self.expect_pull(node, member, bool(number % 2))
        self.run.record("access membership p50", quantile(taken, 0.5))
        self.run.record("access membership p99", quantile(taken, 0.99))

    def expect_pull(self, node, member, wanted):
        """Whether the member's token allows to pull, just after the change."""
        status, body = node.log_in(*member)
        claims = json.loads(body).get("access_token", "").split(".") if status == 200 else []
        allowed = len(claims) == 3 and "pull" in decoded(claims[1])
        if allowed is not wanted:
            raise Failure(f"a member may pull: {allowed}, and not {wanted} ({status})")


def decoded(part):
    """A part of a token as text."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()


def signatures(seconds):
    """What one processor signs a second, by the same algorithm (ES256)."""
    output = run_program(["openssl", "speed", "-seconds", str(seconds), "ecdsap256"])
    match = re.search(r"nistp256\)\s+\S+\s+\S+\s+([\d.]+)", output)
    if not match:
        raise Failure(f"openssl speed says something else: {output[-300:]}")
    return float(match.group(1))


def lines(table):
    if not table.has("access tokens"):
        return
    what = "access tokens a second (ES256, client credentials) / `openssl speed`, signatures of one processor"
    table.ratio(what, "access tokens", "access signatures", 0.25, "a second")
    for kind, counts, goal, text in (
        ("assignments", ASSIGNMENTS, 1.2, "assignments elsewhere"),
        ("groups", GROUPS, 1.5, "groups"),
    ):
        for count in counts[1:]:
            what = f"time of a GET by a caller with {count:,} {text} / with 1"
            at_most_ratio(table, what, f"access {kind} {count}", f"access {kind} 1", goal)
    documents = f"{max(table.samples['access documents'])} document a change; p50 {table.spread('access membership p50', '{:.1f}')} ms"
    what = f"a group of {MEMBERS:,} members, nested {DEPTH} deep, leaves the group around it or comes back: in force at the node, p99"
    table.at_most(what, "access membership p99", 50, "ms", documents)


def at_most_ratio(table, what, ours, peer, goal):
    ratios = sorted(mine / theirs for mine, theirs in zip(table.samples[ours], table.samples[peer]))
    ratio = ratios[len(ratios) // 2]
    sides = f"{table.spread(ours)} / {table.spread(peer)} µs of the whole machine's time a request"
    reached = "yes" if ratio <= goal else "**no**"
    table.row(what, f"≤ {goal} ×", f"**{ratio:.2f} ×** ({ratios[0]:.2f}–{ratios[-1]:.2f})", reached, sides)
