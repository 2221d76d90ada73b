"""Source addresses: limits count by address, and the whole of 127.0.0.0/8 is this machine, so each client has its own."""

import secrets

from requests.adapters import HTTPAdapter


def fresh_address():
    """An address of this machine that no other client of the run uses."""
    one, two, three = secrets.token_bytes(3)
    return f"127.{one % 254 + 1}.{two % 254 + 1}.{three % 254 + 1}"


class FromAddress(HTTPAdapter):
    """Sends requests from one source address."""

    def __init__(self, address):
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments, **options):
        super().init_poolmanager(*arguments, source_address=(self._address, 0), **options)


def bind(session, address=None):
    address = address or fresh_address()
    session.mount("https://", FromAddress(address))
    return address
