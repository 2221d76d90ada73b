"""Operating nodes: seeing, renewing and removing them, and what a bound on the age of their configuration does."""

import contextlib
import json

import pytest
import requests

from harness.control_plane import SUBSCRIPTIONS, ControlPlane
from harness.images import Image
from harness.installation import Installation
from harness.nodes import Node, Process, admin_node, run
from harness.waiting import free_port, wait_until

SCOPE = "repository:app:pull,push"


class Scene:
    """Two nodes of one region, and a registry with an image."""

    def __init__(self, installation):
        self.installation = installation
        self.control_plane = ControlPlane(installation.ready)
        self.process = Process(installation, "control-plane")
        self.first = Node(installation, installation.node_role)
        self.second = Node(installation, f"{installation.node_role}-2")
        self.registry = self.control_plane.new_registry(self.control_plane.new_group())
        self.password = self.control_plane.admin_passwords(self.registry)["password"]
        self.at(self.first).push_image("app", "v1", Image("an image"))

    def at(self, node):
        return node.at(self.registry, self.registry.name, self.password)

    def list(self):
        nodes = json.loads(admin_node(self.installation, "list", "--output", "json"))
        return {node["nodeId"]: node for node in nodes}

    def control_plane_serves(self):
        with contextlib.suppress(OSError, requests.RequestException):
            return self.control_plane.request("GET", "/subscriptions", SUBSCRIPTIONS).status_code == 200
        return False

    @contextlib.contextmanager
    def without_control_plane(self):
        self.process.kill()
        try:
            yield
        finally:
            self.process.start()
            wait_until(self.control_plane_serves, "the control plane to be back")


@pytest.fixture(scope="module")
def scene():
    installation = Installation("--no-restart", "--nodes-per-region", "2")
    try:
        yield Scene(installation.start())
    finally:
        installation.remove()


def node_id(node):
    return node.status()[1]["nodeId"]


def refusal(client):
    """What a refused request is told; None when it is served."""
    answer = client.request("GET", "/v2/")
    if answer.status_code != 503:
        assert answer.status_code == 200, answer.text
        return None
    assert int(answer.headers["Retry-After"]) > 0
    return answer.json()["errors"][0]["message"]


def test_operators_see_every_node_and_how_it_stands(scene):
    ids = {node_id(scene.first), node_id(scene.second)}

    def all_current():
        nodes = scene.list()
        return nodes if all(node["isLive"] and node["lag"] == 0 for node in nodes.values()) else None

    nodes = wait_until(all_current, "both nodes to be current")
    assert set(nodes) == ids
    assert {node["region"] for node in nodes.values()} == {"westus"}
    assert not any(node["isFenced"] or node["rejected"] or node["isRotationPending"] for node in nodes.values())
    table = admin_node(scene.installation, "list")
    assert table.splitlines()[0].split()[:2] == ["NODE", "REGION"]
    assert all(node in table for node in ids)
    code, status = scene.first.status()
    assert code == 0
    assert status["isServing"] and status["connection"] == "connected" and status["stalenessBoundSeconds"] is None
    assert 0 <= status["unconfirmedSeconds"] < 10
    shown = run("node", "status", "--metrics", scene.first.metrics)
    assert "serving" in shown.stdout and shown.returncode == 0
    nobody = run("node", "status", "--metrics", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 2 and "no node answers" in nobody.stderr


def test_a_node_takes_a_new_credential_and_key_and_its_old_tokens_last(scene):
    old_token = scene.at(scene.first).token(SCOPE)
    old_key = scene.first.status()[1]["signingKey"]
    old_file = (scene.first.state_dir / "credential.json").read_text()
    said = admin_node(scene.installation, "rotate", node_id(scene.first))
    assert "done" in said and old_key in said
    new_key = scene.first.status()[1]["signingKey"]
    assert new_key != old_key
    assert (scene.first.state_dir / "credential.json").read_text() != old_file
    new_token = scene.at(scene.first).token(SCOPE)
    for node in (scene.first, scene.second):
        for token in (old_token, new_token):
            assert scene.at(node).pulls("app", "v1", token)
    assert not scene.list()[node_id(scene.first)]["isRotationPending"]
    scene.first.kill()
    scene.first.start()
    scene.first.until("the node to be back", isServing=True, signingKey=new_key, connection="connected")
    assert scene.at(scene.first).pulls("app", "v1", old_token)


def test_a_node_that_is_away_takes_a_new_credential_when_it_comes_back(scene):
    old_key = scene.second.status()[1]["signingKey"]
    its_id = node_id(scene.second)
    scene.second.kill()
    said = admin_node(scene.installation, "rotate", its_id)
    assert "when it connects" in said
    assert scene.list()[its_id]["isRotationPending"]
    scene.second.start()
    wait_until(lambda: not scene.list()[its_id]["isRotationPending"], "the rotation")
    assert scene.second.status()[1]["signingKey"] != old_key
    assert scene.at(scene.first).pulls("app", "v1", scene.at(scene.second).token(SCOPE))


def test_a_node_with_a_bound_refuses_when_nobody_confirms_its_configuration_also_after_a_restart(scene):
    scene.second.kill()
    scene.second.start("--staleness-bound", "10")
    scene.second.until("the node to be back", isServing=True, stalenessBoundSeconds=10)
    client = scene.at(scene.second)
    assert refusal(client) is None
    its_id = node_id(scene.second)
    assert scene.list()[its_id]["stalenessBoundSeconds"] == 10
    with scene.without_control_plane():
        # Whoever counts on it counts longer than the node itself.
        wait_until(lambda: scene.list()[its_id]["isFenced"], "the bound and a tenth to pass")
        message = refusal(client)
        assert "staleness bound is 10 seconds" in message and "since" in message
        code, status = scene.second.status()
        assert code == 1 and status["isFenced"] and message.split(":")[0] in status["reasons"][0]
        # Readiness and metrics follow within a second.
        wait_until(lambda: seen(scene.second, "readyz").status_code == 503, "readiness to say so")
        assert "staleness bound" in seen(scene.second, "readyz").text
        assert "wharfinger_node_fenced 1" in seen(scene.second, "metrics").text
        # Its flag is gone, but the control plane still counts on it.
        scene.second.kill()
        scene.second.start()
        scene.second.until("the node to be back", isFenced=True, isServing=False)
        wait_until(lambda: serves_or_refuses(client), "the node's data port")
        assert refusal(client) is not None
        # A node without bound serves whatever else is down.
        assert refusal(scene.at(scene.first)) is None
        assert scene.at(scene.first).pulls("app", "v1")
    scene.second.until("the node to be confirmed", isServing=True, isFenced=False, stalenessBoundSeconds=None)
    assert refusal(client) is None


def seen(node, page):
    return requests.get(f"{node.metrics}/{page}", timeout=60)


def serves_or_refuses(client):
    with contextlib.suppress(OSError, requests.RequestException):
        return client.request("GET", "/v2/").status_code in (200, 503)
    return False


def test_a_removed_node_refuses_everybody_and_its_tokens_are_dead(scene):
    client, elsewhere = scene.at(scene.second), scene.at(scene.first)
    token = client.token(SCOPE)
    assert elsewhere.pulls("app", "v1", token)
    removed = node_id(scene.second)
    # Both may be on their way back to a control plane that was started again.
    wait_until(lambda: all(node["isLive"] for node in scene.list().values()), "both nodes to be connected")
    said = admin_node(scene.installation, "remove", removed)
    assert "complete" in said
    assert elsewhere.get_manifest("app", "v1", token).status_code == 401
    assert removed not in scene.list()
    wait_until(lambda: refusal(client), "the node to be told")
    assert "was removed by an administrator" in refusal(client)
    scene.second.kill()
    with scene.without_control_plane():
        scene.second.start()
        wait_until(lambda: serves_or_refuses(client), "the node's data port")
        assert "was removed by an administrator" in refusal(client)
        code, status = scene.second.status()
        assert code == 1 and status["isRemoved"]
    scene.second.kill()
    scene.second.start()
    wait_until(lambda: serves_or_refuses(client), "the node's data port")
    assert "was removed by an administrator" in refusal(client)
    unknown = run("admin", "node", "remove", removed, "--database-url", scene.installation.ready["database_url"])
    assert unknown.returncode != 0 and "there is no node" in unknown.stderr
    assert elsewhere.pulls("app", "v1")
