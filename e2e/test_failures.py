"""kill -9 anywhere: nodes go on serving, nothing acknowledged is lost, nothing half-done is visible."""

import contextlib
import threading

import pytest
import requests

from harness.control_plane import GROUPS, REGISTRIES, SUBSCRIPTIONS, ControlPlane
from harness.docker import Docker
from harness.images import Image
from harness.installation import Installation
from harness.names import fresh_name
from harness.registry import RegistryClient
from harness.waiting import wait_until

UNREACHABLE = (OSError, requests.RequestException)


@pytest.fixture
def alone():
    """An installation of the test's own, in which what was killed stays dead."""
    installation = Installation("--no-restart")
    try:
        yield installation.start()
    finally:
        installation.remove()


class Scene:
    """A registry with an image, its admin account and a principal that may push."""

    def __init__(self, alone):
        self.alone = alone
        self.control_plane = ControlPlane(alone.ready)
        self.registry = self.control_plane.new_registry(self.control_plane.new_group())
        self.passwords = self.control_plane.admin_passwords(self.registry)
        self.principal = self.control_plane.new_principal_with("AcrPush", self.registry.id)
        self.image = Image("before the fault")
        self.admin().push_image("app", "before", self.image)

    def client(self, user, password):
        return RegistryClient(self.registry.login_server, self.alone.ready["ca_file"], user, password)

    def admin(self):
        return self.client(self.registry.name, self.passwords["password"])

    def pusher(self):
        return self.client(self.principal.client_id, self.principal.client_secret)

    def assert_serves(self, tag):
        """Login, push and pull, by both users, by Basic and by token."""
        for client in (self.admin(), self.pusher()):
            assert client.login_status() == 200
            token = client.token("repository:app:pull,push")
            assert client.pulls("app", "before", token)
            client.push_image("app", tag, Image(tag), token)
            assert client.pulls("app", tag)
        assert self.client(self.registry.name, "wrong-password-entirely").login_status() == 401

    def node_serves(self):
        with contextlib.suppress(*UNREACHABLE):
            return self.admin().login_status() == 200
        return False

    def control_plane_serves(self):
        with contextlib.suppress(*UNREACHABLE):
            return self.control_plane.request("GET", "/subscriptions", SUBSCRIPTIONS).status_code == 200
        return False


def postgres_accepts(alone):
    """Whether the revived Postgres takes connections."""
    import socket
    import urllib.parse

    url = urllib.parse.urlsplit(alone.ready["database_url"])

    def look():
        with contextlib.suppress(OSError), socket.create_connection((url.hostname, url.port), timeout=1) as connection:
            # An SSLRequest: a server that is up answers with one letter.
            connection.sendall(bytes.fromhex("0000000804d2162f"))
            return connection.recv(1) in (b"S", b"N")
        return False

    return look


@pytest.mark.timeout(1200)
def test_nodes_serve_without_postgres_and_control_plane_and_take_changes_afterwards(alone, daemon, busybox):
    scene = Scene(alone)
    docker = Docker(daemon)
    postgres = alone.kill("postgres")
    control_plane = alone.kill("control-plane")
    scene.assert_serves("without-control-plane")

    docker.login(scene.registry.login_server, scene.principal.client_id, scene.principal.client_secret)
    reference = f"{scene.registry.login_server}/docker:v1"
    docker.import_image(busybox, reference, "pushed without a control plane")
    docker.push(reference)
    docker.run("image", "rm", reference)
    docker.run("pull", reference)

    node = alone.kill(alone.node_role)
    alone.revive(node, scene.node_serves)
    scene.assert_serves("after-node-restart")
    docker.run("image", "rm", reference)
    docker.run("pull", reference)

    alone.revive(postgres, postgres_accepts(alone))
    alone.revive(control_plane, scene.control_plane_serves)
    assert scene.control_plane.admin_passwords(scene.registry) == scene.passwords
    renewed = wait_until(
        lambda: complete(scene.control_plane.request(
            "POST", f"{scene.registry.id}/regenerateCredential", REGISTRIES, json={"name": "password"}
        )),
        "a change that reaches the node again",
    )  # fmt: skip
    assert scene.admin().login_status() == 401
    scene.passwords = {entry["name"]: entry["value"] for entry in renewed.json()["passwords"]}
    scene.assert_serves("after-all")
    for tag in ("before", "without-control-plane", "after-node-restart", "after-all"):
        assert scene.admin().pulls("app", tag)


def complete(response):
    assert response.status_code == 200, response.text
    return response if response.headers["x-wharfinger-propagation"] == "complete" else None


@pytest.mark.timeout(1200)
def test_without_postgres_the_control_plane_says_so_and_recovers_by_itself(alone):
    scene = Scene(alone)
    postgres = alone.kill("postgres")
    for method, path, version in (
        ("GET", scene.registry.id, REGISTRIES),
        ("PUT", scene.control_plane.group_id(fresh_name("group")), GROUPS),
    ):
        answer = scene.control_plane.request(method, path, version, json={"location": "westus"})
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["code"]
        assert alone.ready["database_url"].partition("@")[2] not in answer.text
    alone.revive(postgres, postgres_accepts(alone))
    wait_until(scene.control_plane_serves, "the control plane to find Postgres again")
    scene.control_plane.expect(200, "GET", scene.registry.id, REGISTRIES)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("victim", ["control-plane", "postgres"])
def test_nothing_the_control_plane_acknowledged_is_lost(alone, victim):
    scene = Scene(alone)
    acknowledged, stop = [], threading.Event()

    def create_groups():
        caller = ControlPlane(alone.ready)
        while not stop.is_set():
            name = fresh_name("group")
            with contextlib.suppress(*UNREACHABLE):
                answer = caller.request("PUT", caller.group_id(name), GROUPS, json={"location": "westus"})
                if answer.status_code == 201:
                    acknowledged.append(name)

    def create_registries():
        caller = ControlPlane(alone.ready)
        group = scene.registry.id.split("/")[4]
        while not stop.is_set():
            path = caller.registry_id(group, fresh_name())
            body = {"location": "westus", "sku": {"name": "Basic"}}
            with contextlib.suppress(*UNREACHABLE):
                if caller.request("PUT", path, REGISTRIES, json=body).status_code == 201:
                    acknowledged.append(path)

    writers = [threading.Thread(target=work) for work in (create_groups, create_registries, create_registries)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(2):
            count = len(acknowledged)
            wait_until(lambda: len(acknowledged) >= count + 10, "ten more acknowledged writes")
            program = alone.kill(victim)
            serving = postgres_accepts(alone) if victim == "postgres" else scene.control_plane_serves
            alone.revive(program, serving)
            update_pid(alone, victim, program.pid)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    wait_until(scene.control_plane_serves, "the control plane")
    groups = {
        entry["name"]
        for entry in scene.control_plane.expect(
            200, "GET", f"{scene.control_plane.subscription}/resourcegroups", GROUPS
        )["value"]
    }
    for item in acknowledged:
        if item.startswith("/"):
            scene.control_plane.expect(200, "GET", item, REGISTRIES)
        else:
            assert item in groups
    assert scene.admin().login_status() == 200


def update_pid(alone, role, pid):
    """The ready file still names the dead process; the next kill must meet the living one."""
    import json

    ready = alone.ready
    ready["pids"][role] = pid
    alone.ready_file.write_text(json.dumps(ready))


@pytest.mark.timeout(1200)
def test_nothing_a_node_acknowledged_is_lost_and_nothing_half_done_is_visible(alone):
    scene = Scene(alone)
    acknowledged, stop = {}, threading.Event()

    def push(number):
        while not stop.is_set():
            tag = fresh_name("tag")
            image = Image(tag, "x" * 300_000)
            with contextlib.suppress(*UNREACHABLE, AssertionError):
                scene.pusher().push_image(f"app{number}", tag, image)
                acknowledged[(f"app{number}", tag)] = image.digest

    writers = [threading.Thread(target=push, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            count = len(acknowledged)
            wait_until(lambda: len(acknowledged) >= count + 5, "five more acknowledged pushes")
            node = alone.kill(alone.node_role)
            alone.revive(node, scene.node_serves)
            update_pid(alone, alone.node_role, node.pid)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    admin = scene.admin()
    for (repository, tag), digest in acknowledged.items():
        assert admin.get_manifest(repository, tag).headers["Docker-Content-Digest"] == digest
        assert admin.pulls(repository, tag)
    for repository in admin.expect(200, "GET", "/v2/_catalog").json()["repositories"]:
        for tag in admin.expect(200, "GET", f"/v2/{repository}/tags/list?n=1000").json()["tags"]:
            assert admin.pulls(repository, tag), f"{repository}:{tag} is listed and cannot be pulled"


@pytest.mark.timeout(1200)
def test_everything_is_there_after_everything_was_killed(alone):
    scene = Scene(alone)
    for role in (alone.node_role, "control-plane", "postgres"):
        alone.kill(role)
    alone.stop()
    before = scene.control_plane.ready
    alone.start()
    for member in ("tenant_id", "subscription_id", "client_id", "client_secret", "control_plane"):
        assert alone.ready[member] == before[member]
    scene.control_plane = ControlPlane(alone.ready)
    assert scene.control_plane.admin_passwords(scene.registry) == scene.passwords
    scene.assert_serves("after-all")
