"""Real docker daemons and the docker client."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from .evidence import EVIDENCE
from .installation import clean_environment
from .waiting import wait_until

DOCKER = shutil.which("docker") or "docker"
PROGRAMS_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


class DockerDaemon:
    """A private, empty dockerd with its own containerd, storage and socket; touches no firewall and no bridge."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="wharfinger-dockerd-", dir="/tmp"))
        self.socket = self.directory / "docker.sock"
        self.host = f"unix://{self.socket}"
        self.log_file = self.directory / "log"
        self.process = None

    def start(self):
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        dockerd = shutil.which("dockerd", path=PROGRAMS_PATH)
        assert dockerd, "dockerd is not installed (scripts/test installs docker.io)"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [
                    *root, dockerd,
                    "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs",
                    "--insecure-registry", "127.0.0.0/8",
                    "--data-root", str(self.directory / "data"),
                    "--exec-root", str(self.directory / "exec"),
                    "--pidfile", str(self.directory / "pid"),
                    "--group", str(os.getgid()),
                    "--host", self.host,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment() | {"PATH": PROGRAMS_PATH},
            )  # fmt: skip
        client = Docker(self)

        def answers():
            assert self.process.poll() is None, f"dockerd ended:\n{self.log_file.read_text(errors='replace')}"
            return client.run("version", exit_code=None).exit_code == 0

        wait_until(answers, "a docker daemon that answers", timeout=240)
        return self

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            if os.geteuid() == 0:
                self.process.send_signal(signal.SIGTERM)
            else:
                subprocess.run(["sudo", "-n", "kill", str(self.process.pid)], check=False)
            self.process.wait(180)
        remove = ["rm", "-rf", str(self.directory)]
        subprocess.run(remove if os.geteuid() == 0 else ["sudo", "-n", *remove], check=False)


class Outcome:
    def __init__(self, arguments, completed):
        self.arguments = arguments
        self.exit_code = completed.returncode
        self.stdout = completed.stdout
        self.stderr = completed.stderr

    def __str__(self):
        return f"{' '.join(map(str, self.arguments))}\nexit code {self.exit_code}\n{self.stdout}\n{self.stderr}"


def run_program(arguments, environment=None, stdin=None, exit_code=0, timeout=600):
    """Runs a program, remembers its stderr, and holds it to its exit code (None: any)."""
    completed = subprocess.run(
        [str(argument) for argument in arguments],
        env=clean_environment() | (environment or {}),
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    outcome = Outcome(arguments, completed)
    EVIDENCE.text(f"stderr of {arguments[0]}", outcome.stderr)
    if exit_code is not None:
        assert outcome.exit_code == exit_code, str(outcome)
    return outcome


class Docker:
    """The docker client of one person: its own credentials, one daemon."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.configuration = tempfile.mkdtemp(prefix="client-", dir=daemon.directory)

    def environment(self):
        return {"DOCKER_HOST": self.daemon.host, "DOCKER_CONFIG": self.configuration}

    def run(self, *arguments, stdin=None, exit_code=0):
        return run_program([DOCKER, *arguments], self.environment(), stdin, exit_code)

    def login(self, server, user, password, exit_code=0):
        return self.run(
            "login", "--username", user, "--password-stdin", server, stdin=password, exit_code=exit_code
        )  # fmt: skip

    def login_fails(self, server, user, password):
        outcome = self.login(server, user, password, exit_code=None)
        assert outcome.exit_code != 0, f"this login should have been refused:\n{outcome}"
        return outcome.stderr

    def fails(self, *arguments):
        outcome = self.run(*arguments, exit_code=None)
        assert outcome.exit_code != 0, f"this should have failed:\n{outcome}"
        return outcome.stderr

    def import_image(self, archive, reference, greeting):
        """Makes a small image that prints `greeting` when run."""
        command = json.dumps(["/bin/busybox", "echo", greeting])
        self.run("import", "--change", f"CMD {command}", archive, reference)

    def push(self, reference):
        """Pushes and returns the digest that the registry gave."""
        output = self.run("push", reference).stdout
        return output.rpartition("digest: ")[2].split()[0]
