"""A throw-away issuer of tokens, as a continuous-integration service is one, with the run's own certificate."""

from __future__ import annotations

import http.server
import json
import pathlib
import ssl
import threading
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

KEY_ID = "one"


class Issuer:
    """Shows its key at a port of 127.0.0.1 and signs what it is asked to."""

    def __init__(self, port: int, certificate: pathlib.Path, certificate_key: pathlib.Path) -> None:
        self.url = f"https://localhost:{port}"
        self._key = ec.generate_private_key(ec.SECP256R1())
        shown = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        documents = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": [shown | {"kid": KEY_ID, "use": "sig", "alg": "ES256"}]},
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                body = json.dumps(documents.get(self.path, {})).encode()
                self.send_response(200 if self.path in documents else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, certificate_key)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, subject: str, audience: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": subject, "aud": audience, "iat": now, "exp": now + 300}
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": KEY_ID})
