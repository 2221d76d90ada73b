"""A process that is told to end: what is under way is finished, and nobody can keep it by doing nothing."""

import os
import pathlib
import signal
import socket
import ssl
import threading
import time

import pytest
from harness.control_plane import REGISTRIES, ControlPlane
from harness.installation import Installation
from harness.names import fresh_name
from harness.waiting import wait_until

# The beginning of a connection of HTTP/2 and its first frame: SETTINGS, empty.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture
def alone():
    installation = Installation("--no-restart")
    try:
        yield installation.start()
    finally:
        installation.remove()


def has_ended(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def idle_connection(installation, port):
    """A connection of HTTP/2 on which nothing is asked."""
    context = ssl.create_default_context(cafile=installation.ready["ca_file"])
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection = context.wrap_socket(raw, server_hostname="localhost")
    assert connection.selected_alpn_protocol() == "h2"
    connection.sendall(PREFACE)
    assert connection.recv(9)[3] == 4, "the server's own SETTINGS"
    return connection


def test_a_control_plane_ends_soon_though_a_connection_stays_and_answers_what_is_under_way(alone):
    control_plane = ControlPlane(alone.ready)
    group = control_plane.new_group()
    idle = idle_connection(alone, alone.port)
    answers = []

    registry, other = control_plane.registry_id(group, fresh_name()), ControlPlane(alone.ready)

    def create():
        body = {"location": "westus", "sku": {"name": "Basic"}}
        answers.append(control_plane.request("PUT", registry, REGISTRIES, json=body))

    # The node does not answer, so the change is under way for two seconds.
    node, pid = alone.pid(alone.node_role), alone.pid("control-plane")
    os.kill(node, signal.SIGSTOP)
    try:
        creating = threading.Thread(target=create)
        creating.start()
        wait_until(lambda: other.request("GET", registry, REGISTRIES).status_code == 200, "the registry to be there")
        assert creating.is_alive(), "it waits for the node"
        begun = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: has_ended(pid), "the control plane to end", timeout=60)
        took = time.monotonic() - begun
        creating.join()
    finally:
        os.kill(node, signal.SIGCONT)
        idle.close()
    assert [answer.status_code for answer in answers] == [201]
    assert took < 5, f"it took {took:.1f} s"


def test_a_node_ends_soon_though_a_connection_stays(alone):
    idle = idle_connection(alone, alone.registry_port)
    pid = alone.pid(alone.node_role)
    begun = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: has_ended(pid), "the node to end", timeout=55)
    took = time.monotonic() - begun
    idle.close()
    assert took < 5, f"it took {took:.1f} s"
