"""Waiting for a condition, never for luck."""

import socket
import time


def wait_until(condition, what, timeout=30.0, interval=0.05):
    """Returns the first true result of `condition`; after `timeout` seconds fails and says what it waited for."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain: {what}")
        time.sleep(interval)


def free_port():
    """A port that is free on 127.0.0.1 and on [::1] right now."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as four:
            four.bind(("127.0.0.1", 0))
            port = four.getsockname()[1]
            try:
                with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as six:
                    six.bind(("::1", port))
            except OSError:
                continue
            return port
