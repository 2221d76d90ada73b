"""Every secret that a run brought to light, and every text in which none of them may stand."""

import base64
import threading


class Evidence:
    """Filled by the clients while the tests run; judged by test_secrets.py at the end."""

    def __init__(self):
        self._lock = threading.Lock()
        self.secrets = {}
        self.kinds = set()
        self.texts = []

    def secret(self, value, kind):
        """Remembers a secret (a password, a client secret, a token) under the kind of thing it is."""
        if value and len(value) >= 16:
            with self._lock:
                # A value may be known in several ways; the first name stays.
                self.secrets.setdefault(value, kind)
                self.kinds.add(kind)
        return value

    def text(self, source, content):
        """Remembers something the product said where no secret belongs: an error body, a client's stderr."""
        if content:
            with self._lock:
                self.texts.append((source, content))

    def forms(self):
        """(kind, bytes) of each secret in each form in which it could leak."""
        with self._lock:
            known = dict(self.secrets)
        for value, kind in known.items():
            yield kind, value.encode()
            encoded = base64.b64encode(value.encode()).rstrip(b"=")
            yield f"{kind}, in base64", encoded[:-1]


EVIDENCE = Evidence()
