"""Waiting for a condition, never for luck."""

import random
import socket
import time

_given_out = set()


def wait_until(condition, what, timeout=120.0, interval=0.05):
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
    """A port that is free on 127.0.0.1 and on [::1], below those that the system gives to outgoing connections:
    an installation that is stopped finds it free again. No port is given out twice: whoever has it may not listen yet."""
    while True:
        port = random.randrange(10_000, 20_000)
        if port in _given_out:
            continue
        try:
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with socket.socket(family, socket.SOCK_STREAM) as listener:
                    listener.bind((address, port))
        except OSError:
            continue
        _given_out.add(port)
        return port
