"""docker-registry (distribution) as a peer, with the certificate that the node has."""

import json
import secrets
import subprocess
import time

from ..installation import basic, environment
from ..machine import Failure, free_port, run

PROGRAM = "docker-registry"
BCRYPT_COST = 5
READY_SECONDS = 20


class DockerRegistry:
    """One process on a directory that others may share."""

    def __init__(self, directory, storage, certificate, user=None):
        directory.mkdir()
        storage.mkdir(exist_ok=True)
        self.port = free_port()
        self.authorization = None
        configuration = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(storage)},
                "cache": {"blobdescriptor": "inmemory"},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": f"127.0.0.1:{self.port}", "tls": {"certificate": str(certificate[0]), "key": str(certificate[1])}},
        }
        if user:
            password = secrets.token_urlsafe(20)
            self.authorization = basic(user, password)
            line = run(["htpasswd", "-niBC", str(BCRYPT_COST), user], input=password)
            (directory / "htpasswd").write_text(line)
            configuration["auth"] = {"htpasswd": {"realm": "bench", "path": str(directory / "htpasswd")}}
        # What is JSON is YAML too.
        (directory / "config.yml").write_text(json.dumps(configuration))
        self.log = open(directory / "log", "wb")
        self.process = subprocess.Popen(
            [PROGRAM, "serve", str(directory / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=environment() | {"OTEL_TRACES_EXPORTER": "none"},
        )

    def wait(self, ask):
        """Until it answers."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                return ask()
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    with open(self.log.name, errors="replace") as log:
                        raise Failure(f"docker-registry does not serve ({error}):\n{log.read()[-2000:]}") from None
                time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
