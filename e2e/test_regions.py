"""Two regions with two nodes each: a registry is used through any node, wherever it lives, and an image's name never tells where."""

import contextlib
import os
import signal

import pytest
import requests

from harness.azure_cli import AzureCli
from harness.control_plane import REGISTRIES, ControlPlane, Registry, remember_passwords
from harness.docker import Docker, run_program
from harness.images import Image, digest_of
from harness.installation import Installation
from harness.names import fresh_name, make_resolvable
from harness.registry import RegistryClient, error_codes, with_digest
from harness.waiting import wait_until

FIRST, SECOND = "westus", "northeurope"


@pytest.fixture(scope="module")
def installed():
    installation = Installation("--regions", f"{FIRST},{SECOND}", "--nodes-per-region", "2", "--no-restart")
    try:
        yield installation.start()
    finally:
        installation.remove()


@pytest.fixture(scope="module")
def owner(installed):
    return ControlPlane(installed.ready)


@pytest.fixture(scope="module")
def nodes(installed):
    """Region → addresses of its nodes."""
    return installed.ready["regions"]


@pytest.fixture(scope="module")
def through(installed):
    """Makes a client that asks for a registry at one node, whichever port its login server has."""

    def make(node, registry, user=None, password=None):
        client = RegistryClient(registry.login_server, installed.ready["ca_file"], user, password)
        host, _, _ = registry.login_server.partition(":")
        client.url = f"https://{host}:{node.rpartition(':')[2]}"
        client.session.headers["Host"] = registry.login_server
        return client

    return make


def everywhere(nodes):
    return [node for region in nodes.values() for node in region]


def test_the_ready_file_names_all_nodes(installed, nodes):
    ready = installed.ready
    assert list(nodes) == [FIRST, SECOND]
    assert len(set(everywhere(nodes))) == 4
    assert nodes[FIRST][0] == f"localhost:{installed.registry_port}"
    roles = {f"registry-node-{region}{number}" for region in nodes for number in ("", "-2")}
    assert roles < set(ready["pids"]) and roles < set(ready["metrics"])
    for node in everywhere(nodes):
        assert requests.get(f"https://{node}/v2/", verify=ready["ca_file"], timeout=60).status_code == 404


def test_az_creates_a_registry_in_another_region_and_everybody_uses_it_by_its_name(
    installed, owner, nodes, through, daemon, busybox, tmp_path
):
    ready = installed.ready
    az = AzureCli(tmp_path / "az", ready["ca_file"])
    az.register_cloud(ready["control_plane"])
    az.login(ready["client_id"], ready["client_secret"], ready["tenant_id"])
    locations = [location["name"] for location in az.json("account", "list-locations")]
    assert set(locations) >= {FIRST, SECOND}
    group, name = owner.new_group(), fresh_name()
    created = az.json(
        "acr", "create", "-g", group, "-n", name, "-l", SECOND, "--sku", "Standard", "--admin-enabled", "true"
    )  # fmt: skip
    assert created["location"] == SECOND
    server = created["loginServer"]
    assert server == f"{name}{ready['login_server_suffix']}"
    make_resolvable(server.partition(":")[0])
    credential = az.json("acr", "credential", "show", "-n", name)
    passwords = remember_passwords(credential)

    # The port is that of the first region's first node.
    docker = Docker(daemon)
    docker.login(server, name, passwords["password"])
    reference = f"{server}/team/app:v1"
    docker.import_image(busybox, reference, "made in one region, kept in another")
    digest = docker.push(reference)
    docker.run("image", "rm", reference)
    docker.run("pull", reference)
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(open(ready["ca_file"], "rb").read())
    inspected = run_program(
        ["skopeo", "inspect", "--cert-dir", certificates, "--creds", f"{name}:{passwords['password']}",
         f"docker://{reference}"],
        {"HOME": str(tmp_path)},
    )  # fmt: skip
    assert digest in inspected.stdout

    registry = Registry(owner.expect(200, "GET", created["id"], "2025-11-01"))
    clients = [through(node, registry, name, passwords["password"]) for node in everywhere(nodes)]
    tokens = [client.token("repository:team/app:pull,push") for client in clients]
    for number, client in enumerate(clients):
        assert client.get_manifest("team/app", "v1").headers["Docker-Content-Digest"] == digest
        # A token of any node counts at any other.
        client.push_image("team/app", f"from-{number}", Image(f"from {number}"), tokens[number - 1])
        assert clients[number - 1].pulls("team/app", f"from-{number}", tokens[number])
    # A renewed password is refused by the very next request, tokens made from it too, whichever way they come.
    owner.regenerate(registry, "password")
    for client, token in zip(clients, tokens, strict=True):
        assert client.login_status() == 401
        assert client.get_manifest("team/app", "v1", token).status_code == 401
        client.password = passwords["password2"]
        assert client.login_status() == 200


@pytest.mark.parametrize("region", [FIRST, SECOND])
def test_an_upload_is_continued_at_another_node(owner, nodes, through, region):
    registry = owner.new_registry(owner.new_group(), location=region)
    password = owner.admin_passwords(registry)["password"]
    one, other = (through(node, registry, registry.name, password) for node in nodes[FIRST])
    parts = [b"first part, ", b"second part, ", b"third part"]
    headers = {"Content-Type": "application/octet-stream"}
    location = one.expect(202, "POST", "/v2/app/blobs/uploads/").headers["Location"]
    offset = 0
    for client, part in zip((other, one, other), parts, strict=True):
        answer = client.expect(
            202, "PATCH", location, data=part,
            headers=headers | {"Content-Range": f"{offset}-{offset + len(part) - 1}"},
        )  # fmt: skip
        offset += len(part)
        assert answer.headers["Range"] == f"0-{offset - 1}"
        location = answer.headers["Location"]
    content = b"".join(parts)
    one.expect(201, "PUT", with_digest(location, digest_of(content)))
    for node in everywhere(nodes):
        client = through(node, registry, registry.name, password)
        assert client.expect(200, "GET", f"/v2/app/blobs/{digest_of(content)}").content == content
        assert client.expect(200, "GET", "/v2/_catalog").json() == {"repositories": []}


def test_failed_logins_count_for_the_client_not_for_the_node_between(owner, nodes, through):
    registry = owner.new_registry(owner.new_group(), location=SECOND)
    password = owner.admin_passwords(registry)["password"]
    door = nodes[FIRST][0]
    guesser = through(door, registry, registry.name, "a wrong guess")
    # Each of the home's nodes counts for itself, and they take turns.
    statuses = [guesser.login_status() for _ in range(40)]
    assert statuses[0] == 401 and 429 in statuses
    assert through(door, registry, registry.name, "another wrong guess").login_status() == 401
    # What a client says about itself does not help it.
    guesser.session.headers["X-Wharfinger-Forwarded"] = "unsigned"
    assert guesser.login_status() == 421
    direct = through(nodes[SECOND][0], registry, registry.name, "a third wrong guess")
    direct.session.headers["X-Wharfinger-Forwarded"] = "127.9.9.9"
    assert {direct.login_status() for _ in range(40)} == {401, 429}
    guesser.password = password
    del guesser.session.headers["X-Wharfinger-Forwarded"]
    assert guesser.login_status() == 200


def test_a_node_that_hangs_is_passed_over(installed, owner, nodes, through):
    registry = owner.new_registry(owner.new_group(), location=SECOND)
    client = through(nodes[FIRST][0], registry, registry.name, owner.admin_passwords(registry)["password"])
    client.push_image("app", "v1", Image("before"))
    pid = installed.pid(f"registry-node-{SECOND}-2")
    os.kill(pid, signal.SIGSTOP)
    try:
        # It takes ten seconds to see it once, on a connection that was open.
        for _ in range(6):
            assert client.pulls("app", "v1")
    finally:
        os.kill(pid, signal.SIGCONT)
    client.push_image("app", "v2", Image("after"))
    # Its stream ended meanwhile; what comes next is created for all nodes.
    wait_until(lambda: is_complete(owner, registry), "all nodes have every change")


def is_complete(owner, registry):
    """Whether a change is in force everywhere: the second password is a new one afterwards."""
    path = f"{registry.id}/regenerateCredential"
    answer = owner.request("POST", path, REGISTRIES, json={"name": "password2"})
    return answer.status_code == 200 and answer.headers["x-wharfinger-propagation"] == "complete"


def test_a_region_that_is_away_is_named_and_comes_back(installed, owner, nodes, through):
    group = owner.new_group()
    near, far = (owner.new_registry(group, location=region) for region in (FIRST, SECOND))
    passwords = {registry: owner.admin_passwords(registry)["password"] for registry in (near, far)}
    clients = {
        registry: through(nodes[FIRST][1], registry, registry.name, passwords[registry]) for registry in (near, far)
    }
    for client in clients.values():
        client.push_image("app", "v1", Image("before"))
    programs = [installed.kill(f"registry-node-{SECOND}")]
    # The other node of the region serves.
    for _ in range(4):
        assert clients[far].pulls("app", "v1")
    programs.append(installed.kill(f"registry-node-{SECOND}-2"))
    answer = clients[far].request("GET", "/v2/app/manifests/v1")
    assert answer.status_code == 503, answer.text
    assert error_codes(answer) == ["UNAVAILABLE"]
    assert f"region {SECOND}" in answer.text and int(answer.headers["Retry-After"]) >= 1
    assert clients[near].pulls("app", "v1")

    def serving():
        with contextlib.suppress(requests.RequestException):
            return clients[far].request("GET", "/v2/").status_code == 200
        return False

    for program in programs:
        installed.revive(program, serving)
    wait_until(lambda: is_complete(owner, far), "all nodes have every change")
    assert clients[far].pulls("app", "v1")
    clients[far].push_image("app", "v2", Image("after"))
    metrics = requests.get(installed.ready["metrics"][f"registry-node-{FIRST}-2"], timeout=60).text
    for outcome in ("answered", "unreachable"):
        labels = f'{{region="{SECOND}",outcome="{outcome}"}}'
        assert f"wharfinger_registry_forwarded_requests_total{labels}" in metrics
