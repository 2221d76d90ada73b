"""Content in S3 and in Azure Blob: several nodes on one bucket, none of which keeps anything, and downloads that come from there."""

import contextlib

import pytest
import requests

from harness.control_plane import ControlPlane
from harness.images import Image, digest_of
from harness.installation import Installation
from harness.nodes import Node
from harness.object_stores import ObjectStore
from harness.registry import RegistryClient
from harness.waiting import wait_until


class Scene:
    """Two nodes of one region on one bucket, and a registry."""

    def __init__(self, store, installation):
        self.store = store
        self.installation = installation
        self.first = Node(installation, installation.node_role)
        self.second = Node(installation, f"{installation.node_role}-2")
        control_plane = ControlPlane(installation.ready)
        self.registry = control_plane.new_registry(control_plane.new_group())
        self.password = control_plane.admin_passwords(self.registry)["password"]

    def at(self, node):
        return node.at(self.registry, self.registry.name, self.password)

    def client(self):
        """At the login server's own name and port, where the first node is; follows redirects as a client does."""
        ca_file = self.installation.ready["ca_file"]
        return RegistryClient(self.registry.login_server, ca_file, self.registry.name, self.password)

    def serves(self, node):
        with contextlib.suppress(OSError, requests.RequestException):
            return self.at(node).login_status() == 200
        return False

    def restart(self, node):
        node.kill()
        node.start()
        wait_until(lambda: self.serves(node), "the node to serve again")

    def login(self, docker):
        docker.login(self.registry.login_server, self.registry.name, self.password)
        return docker


@pytest.fixture(scope="module", params=["s3", "azure"])
def scene(request, tmp_path_factory):
    store = ObjectStore(request.param, tmp_path_factory.mktemp("object-store"))
    installation = Installation("--no-restart", "--nodes-per-region", "2", "--redirect-downloads", *store.flags)
    try:
        yield Scene(store, installation.start())
    finally:
        installation.remove()


def test_docker_pulls_what_a_node_took_that_was_killed_since(scene, docker, second_docker, busybox):
    image = f"{scene.registry.login_server}/team/app:v1"
    scene.login(docker).import_image(busybox, image, "kept in a bucket")
    digest = docker.push(image)
    scene.restart(scene.first)
    scene.login(second_docker).run("pull", image)
    assert digest in second_docker.run("image", "inspect", image).stdout
    assert "kept in a bucket" in second_docker.run("run", "--rm", "--network=none", image).stdout
    assert not list(scene.installation.state_dir.glob("content-*")), "a node kept content on its own disk"


def test_one_node_continues_what_another_began_and_downloads_come_from_the_store(scene):
    image = Image("of two nodes")
    first, second = scene.at(scene.first), scene.at(scene.second)
    layer = image.layers[0]
    start = first.expect(202, "POST", "/v2/app/blobs/uploads/")
    patch = second.expect(202, "PATCH", start.headers["Location"].replace(first.url, ""), data=layer)
    location = patch.headers["Location"].replace(second.url, "")
    separator = "&" if "?" in location else "?"
    first.expect(201, "PUT", f"{location}{separator}digest={digest_of(layer)}")
    second.push_image("app", "v1", image)
    assert scene.client().pulls("app", "v1")

    redirect = second.expect(307, "GET", f"/v2/app/blobs/{digest_of(layer)}", allow_redirects=False)
    assert redirect.headers["Location"].startswith(scene.store.endpoint)
    assert requests.get(redirect.headers["Location"], timeout=60).content == layer
    second.expect(200, "HEAD", f"/v2/app/blobs/{digest_of(layer)}", allow_redirects=False)


def test_a_node_says_where_its_content_is(scene):
    ready = requests.get(f"{scene.first.metrics}/readyz", timeout=60)
    assert ready.status_code == 200
    assert ready.json()["checks"]["content"]["detail"] == f"open in {scene.store.location}/westus"
