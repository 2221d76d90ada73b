"""Bytes on a TLS connection, for what no well-behaved client sends."""

import socket
import ssl

TIMEOUT_SECONDS = 300


def connect(host, port, ca_file, tls=True, timeout=TIMEOUT_SECONDS):
    """A connection on which the caller writes whatever it likes."""
    plain = socket.create_connection((host, port), timeout=timeout)
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context.wrap_socket(plain, server_hostname=host)


def is_open(connection):
    """Whether the server has neither answered nor closed; of what it said a byte is lost."""
    timeout = connection.gettimeout()
    connection.setblocking(False)
    try:
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        connection.settimeout(timeout)
    return False


def answer(connection):
    """Everything the server says until it closes; a reset ends it too."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except (ConnectionError, ssl.SSLError):
        pass
    return received


def send(connection, content):
    """Sends what the server is willing to take."""
    try:
        connection.sendall(content)
    except (ConnectionError, ssl.SSLError):
        pass


def status_of(received):
    """The status of a raw HTTP answer, or None when the server just closed."""
    if not received.startswith(b"HTTP/"):
        return None
    return int(received.split(b" ", 2)[1])
