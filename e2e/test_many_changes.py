"""Hundreds of changes one after the other, each held against three nodes at once, beside people who push and pull."""

import itertools
import threading

import pytest

from harness.control_plane import ASSIGNMENTS, REGISTRIES, ControlPlane
from harness.images import Image
from harness.installation import Installation
from harness.nodes import Node
from harness.waiting import wait_until

CHANGES = 500
NODES = 3


class Worker(threading.Thread):
    """Pushes an image and pulls it until told to stop; nobody ever takes its rights away."""

    def __init__(self, number, clients):
        super().__init__(daemon=True)
        self.number = number
        self.clients = itertools.cycle(clients)
        self.ended = threading.Event()
        self.images = 0
        self.failure = None

    def run(self):
        try:
            while not self.ended.is_set():
                image = Image(f"image {self.images} of worker {self.number}")
                repository, tag = f"worker-{self.number}", f"v{self.images}"
                next(self.clients).push_image(repository, tag, image)
                assert next(self.clients).pulls(repository, tag), f"{repository}:{tag} was pushed and is not there"
                self.images += 1
        except BaseException as failure:
            self.failure = failure


class Scene:
    def __init__(self, installation):
        self.control_plane = ControlPlane(installation.ready)
        role = installation.node_role
        self.nodes = [Node(installation, name) for name in (role, *(f"{role}-{number}" for number in range(2, NODES + 1)))]
        self.registry = self.control_plane.new_registry(self.control_plane.new_group())
        self.password = self.control_plane.admin_passwords(self.registry)["password"]
        self.principal = self.control_plane.new_principal()
        self.assignment = None
        self.clients = [node.at(self.registry) for node in self.nodes]
        self.turns = itertools.cycle(self.clients)
        # The last number that every node has by now; changes count on from there.
        self.revision = None

    def log_in_everywhere(self, user, password):
        for client in self.clients:
            client.user, client.password = user, password
            assert client.login_status() == 200

    def is_refused_everywhere(self, user, password):
        """Each time from addresses that have not failed yet: then the answer is about the password."""
        for node in self.nodes:
            assert node.at(self.registry, user, password).login_status() == 401

    def change(self, method, path, api_version, **options):
        """A change that must be in force everywhere when it returns, with the very next revision."""
        answer = self.control_plane.request(method, path, api_version, **options)
        assert answer.status_code in (200, 201), f"{method} {path}: {answer.status_code} {answer.text}"
        assert answer.headers["x-wharfinger-propagation"] == "complete", answer.headers
        revision = int(answer.headers["x-wharfinger-revision"])
        assert self.revision is None or revision == self.revision + 1, f"revision {revision} came after {self.revision}"
        self.revision = revision
        return answer.json()

    def renew(self):
        old = self.password
        client = next(self.turns)
        client.user, client.password = self.registry.name, old
        token = client.token("repository:app:pull")
        body = {"name": "password"}
        answer = self.change("POST", f"{self.registry.id}/regenerateCredential", REGISTRIES, json=body)
        self.password = next(entry["value"] for entry in answer["passwords"] if entry["name"] == "password")
        self.log_in_everywhere(self.registry.name, self.password)
        self.is_refused_everywhere(self.registry.name, old)
        for client in self.clients:
            assert client.get_manifest("app", "v1", token).status_code == 401

    def give_or_take_the_role(self):
        principal = self.principal
        if self.assignment is None:
            path, body = self.control_plane.assignment_of(principal, "AcrPush", self.registry.id)
            self.assignment = self.change("PUT", path, ASSIGNMENTS, json=body)["id"]
            self.log_in_everywhere(principal.client_id, principal.client_secret)
        else:
            self.change("DELETE", self.assignment, ASSIGNMENTS)
            self.assignment = None
            self.is_refused_everywhere(principal.client_id, principal.client_secret)


@pytest.fixture
def scene():
    installation = Installation("--no-restart", "--nodes-per-region", str(NODES))
    try:
        yield Scene(installation.start())
    finally:
        installation.remove()


@pytest.mark.timeout(1800)
def test_each_of_hundreds_of_changes_is_in_force_at_three_nodes_when_it_returns(scene):
    pusher = scene.control_plane.new_principal_with("AcrPush", scene.registry.id)
    clients = [node.at(scene.registry, pusher.client_id, pusher.client_secret) for node in scene.nodes]
    clients[0].push_image("app", "v1", Image("an image"))
    workers = [Worker(number, clients[number:] + clients[:number]) for number in range(2)]
    for worker in workers:
        worker.start()
    try:
        for number in range(CHANGES):
            (scene.renew, scene.give_or_take_the_role)[number % 2]()
    finally:
        for worker in workers:
            worker.ended.set()
        for worker in workers:
            worker.join()
    for worker in workers:
        if worker.failure:
            raise worker.failure
        assert worker.images > 0
    for node in scene.nodes:
        wait_until(lambda node=node: node.has(revision=scene.revision), "the node to be at the last revision")
