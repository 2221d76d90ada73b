"""A process that is told to end: what is under way is finished, and nobody can keep it by doing nothing."""

import contextlib
import os
import pathlib
import signal
import socket
import ssl
import threading
import time

from harness.control_plane import REGISTRIES, ControlPlane
from harness.installation import Installation
from harness.names import fresh_name
from harness.waiting import wait_until

# The beginning of a connection of HTTP/2 and its first frame: SETTINGS, empty.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# How long a process waits for connections that stay, were it to wait for them.
CONTROL_PLANE_WAITS_SECONDS, NODE_WAITS_SECONDS = 10, 60
# A machine that is busy elsewhere may be late once, but not each time.
TRIES = 3


@contextlib.contextmanager
def installed(**options):
    installation = Installation("--no-restart", **options)
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
    raw = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection = context.wrap_socket(raw, server_hostname="localhost")
    assert connection.selected_alpn_protocol() == "h2"
    connection.sendall(PREFACE)
    assert connection.recv(9)[3] == 4, "the server's own SETTINGS"
    return connection


def test_a_control_plane_ends_soon_though_a_connection_stays_and_answers_what_is_under_way():
    assert any(control_plane_ends_soon_and_answers() for _ in range(TRIES))


def control_plane_ends_soon_and_answers():
    # A creation that waits for a node is under way for half as long as the process would wait for the connection.
    with installed(propagation_timeout_seconds=CONTROL_PLANE_WAITS_SECONDS // 2) as alone:
        control_plane, other = ControlPlane(alone.ready), ControlPlane(alone.ready)
        registry = control_plane.registry_id(control_plane.new_group(), fresh_name())
        answers = []

        def create():
            body = {"location": "westus", "sku": {"name": "Basic"}}
            answers.append(control_plane.request("PUT", registry, REGISTRIES, json=body))

        node, pid = alone.pid(alone.node_role), alone.pid("control-plane")
        with idle_connection(alone, alone.port):
            os.kill(node, signal.SIGSTOP)
            try:
                creating = threading.Thread(target=create)
                creating.start()
                wait_until(lambda: other.request("GET", registry, REGISTRIES).status_code == 200, "the registry to be there")
                begun = time.monotonic()
                os.kill(pid, signal.SIGTERM)
                is_under_way = creating.is_alive()
                wait_until(lambda: has_ended(pid), "the control plane to end")
                took = time.monotonic() - begun
                creating.join()
            finally:
                os.kill(node, signal.SIGCONT)
        assert [answer.status_code for answer in answers] == [201]
        return is_under_way and took < CONTROL_PLANE_WAITS_SECONDS - 0.5


def test_a_node_ends_soon_though_a_connection_stays():
    with installed() as alone, idle_connection(alone, alone.registry_port):
        pid = alone.pid(alone.node_role)
        begun = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: has_ended(pid), "the node to end")
        took = time.monotonic() - begun
        assert took < NODE_WAITS_SECONDS - 10, f"it took {took:.1f} s"
