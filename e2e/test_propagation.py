"""A change is in force when the call that made it returns; what is known about that stands in two headers."""

import contextlib
import os
import signal
import time

import pytest

from harness.control_plane import ASSIGNMENTS, REGISTRIES, ControlPlane
from harness.installation import SERVES_FROM_COPY, Installation
from harness.names import fresh_name
from harness.nodes import Node
from harness.registry import RegistryClient
from harness.waiting import wait_until

STARTS_MAXIMUM = 10
PROPAGATION, REVISION, MISSING = "x-wharfinger-propagation", "x-wharfinger-revision", "x-wharfinger-missing"


@pytest.fixture(scope="module")
def alone():
    """An installation whose node may be stopped without disturbing other tests."""
    installation = Installation("--no-restart")
    try:
        yield installation.start()
    finally:
        installation.remove()


@pytest.fixture
def own(alone):
    return with_registry(alone)


def with_registry(installation):
    control_plane = ControlPlane(installation.ready)
    return control_plane, control_plane.new_registry(control_plane.new_group())


@pytest.fixture
def hasty():
    """An installation whose control plane waits for two seconds only: no lease ends in that time."""
    installation = Installation("--no-restart", propagation_timeout_seconds=2)
    try:
        yield installation.start()
    finally:
        installation.remove()


@contextlib.contextmanager
def stopped(pid):
    """The process exists and does nothing, as one whose machine hangs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def regenerate(control_plane, registry):
    return control_plane.request("POST", f"{registry.id}/regenerateCredential", REGISTRIES, json={"name": "password"})


def is_complete(control_plane, registry):
    return regenerate(control_plane, registry).headers[PROPAGATION] == "complete"


def test_each_change_is_complete_and_has_a_higher_revision(control_plane, registry):
    principal = control_plane.new_principal()
    assignment = control_plane.assign(principal, "AcrPull", registry.id)
    answers = [
        regenerate(control_plane, registry),
        control_plane.request(
            "PATCH", registry.id, REGISTRIES, json={"properties": {"adminUserEnabled": False}}
        ),
        control_plane.request("DELETE", assignment["id"], ASSIGNMENTS),
        control_plane.request("DELETE", registry.id, REGISTRIES),
    ]  # fmt: skip
    assert [answer.headers[PROPAGATION] for answer in answers] == ["complete"] * 4
    revisions = [int(answer.headers[REVISION]) for answer in answers]
    assert revisions == sorted(set(revisions))
    assert not any(MISSING in answer.headers for answer in answers)


def test_a_read_says_nothing_about_propagation(control_plane, registry):
    assert PROPAGATION not in control_plane.request("GET", registry.id, REGISTRIES).headers


def test_a_password_is_in_force_when_its_answer_arrives(control_plane, registry, at):
    for _ in range(20):
        before = control_plane.admin_passwords(registry)
        after = control_plane.regenerate(registry, "password")
        assert at(registry, registry.name, after["password"]).login_status() == 200
        assert at(registry, registry.name, before["password"]).login_status() == 401


def test_a_hanging_node_is_waited_for_then_named_and_catches_up(hasty):
    control_plane, registry = with_registry(hasty)
    before = control_plane.admin_passwords(registry)
    with stopped(hasty.pid(hasty.node_role)):
        begun = time.monotonic()
        first = regenerate(control_plane, registry)
        assert first.status_code == 200
        # The lease ends seven seconds after the node stopped, at the earliest; a busy machine may take as long to answer.
        assert first.headers[PROPAGATION] == "pending" or time.monotonic() - begun > 6

        def lease_ended():
            answer = regenerate(control_plane, registry)
            return answer if answer.headers[PROPAGATION] == "partial" else None

        partial = wait_until(lease_ended, "the end of the node's lease")
        assert partial.headers[MISSING]
        assert int(partial.headers[REVISION]) > int(first.headers[REVISION])
    wait_until(lambda: is_complete(control_plane, registry), "the node to be back")
    old = RegistryClient(registry.login_server, hasty.ready["ca_file"], registry.name, before["password"])
    assert old.login_status() == 401
    now = control_plane.admin_passwords(registry)
    new = RegistryClient(registry.login_server, hasty.ready["ca_file"], registry.name, now["password"])
    assert new.login_status() == 200


def test_a_dead_node_is_named_and_has_all_changes_before_it_serves_again(alone, own):
    control_plane, registry = own
    before = control_plane.admin_passwords(registry)
    node = Node(alone, alone.node_role)
    node.kill()
    wait_until(
        lambda: regenerate(control_plane, registry).headers[PROPAGATION] == "partial",
        "the end of the node's lease",
    )
    passwords = control_plane.admin_passwords(registry)
    created = control_plane.request(
        "PUT",
        control_plane.registry_id(control_plane.new_group(), fresh_name()),
        REGISTRIES,
        json={"location": "westus", "sku": {"name": "Basic"}},
    )
    assert created.status_code == 201
    assert created.headers[PROPAGATION] == "partial"

    old = RegistryClient(registry.login_server, alone.ready["ca_file"], registry.name, before["password"])
    answer = first_answer_of_a_start_that_joins(node, old)
    assert answer == 401, "a node that joins serves only with the newest configuration"
    new = RegistryClient(registry.login_server, alone.ready["ca_file"], registry.name, passwords["password"])
    assert new.login_status() == 200
    wait_until(lambda: is_complete(control_plane, registry), "the node to be counted on again")


def first_answer_of_a_start_that_joins(node, client):
    """On a busy machine a node may hear of no control plane for seconds and serve from its copy; then it is started once more."""

    def first_answer():
        with contextlib.suppress(OSError):
            return client.login_status()

    for _ in range(STARTS_MAXIMUM):
        logged = len(node.log()) if node.program.process else 0
        node.start()
        answer = wait_until(first_answer, "the node to serve")
        if SERVES_FROM_COPY not in node.log()[logged:]:
            return answer
        node.kill()
    raise AssertionError(f"none of {STARTS_MAXIMUM} starts joined:\n{node.program.log_tail()}")


def test_directory_administrators_see_who_lacks_what(alone, own):
    control_plane, _ = own
    nodes = control_plane.expect(200, "GET", "/config/v1/nodes")
    assert "westus" in str(nodes)
    revision = nodes.get("revision", 1) if isinstance(nodes, dict) else 1
    control_plane.expect(200, "GET", f"/config/v1/propagation/{revision}")
    somebody = control_plane.of(control_plane.new_principal())
    assert somebody.request("GET", "/config/v1/nodes").status_code == 403
    assert control_plane.request("GET", "/config/v1/nodes", token=False).status_code == 401
