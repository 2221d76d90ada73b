"""One of several registry nodes: how it was started, where it is, what it says of itself, and how to restart it with other flags."""

import json
import os
import pathlib
import signal
import subprocess

from .installation import BINARY, Program, clean_environment, is_alive
from .registry import RegistryClient
from .waiting import wait_until


class NodeClient(RegistryClient):
    """Requests to one node, whichever the login server's name leads to."""

    def __init__(self, port, login_server, ca_file, user=None, password=None):
        super().__init__(login_server, ca_file, user, password)
        self.url = f"https://{login_server.partition(':')[0]}:{port}"

    def request(self, method, path, token=None, basic=True, **options):
        options["headers"] = {"Host": self.login_server} | dict(options.get("headers", {}))
        return super().request(method, path, token, basic, **options)


class Process:
    """A process of an installation that leaves dead what dies; may be killed and started again many times."""

    def __init__(self, installation, role):
        self.installation = installation
        self.program = Program.of(installation.pid(role), installation.directory / f"{role}.revived.log")
        installation.revived.append(self.program)
        self.arguments = list(self.program.arguments)

    def kill(self):
        os.kill(self.program.pid, signal.SIGKILL)
        if self.program.process is not None:
            self.program.process.wait()
        wait_until(lambda: not is_alive(self.program.pid), "the end of a process")

    def start(self, *flags):
        """With the command line that it had, and more flags."""
        self.program.arguments = [*self.arguments, *flags]
        self.program.start()


class Node(Process):
    """A registry node."""

    def flag(self, name):
        return self.arguments[self.arguments.index(name) + 1]

    @property
    def port(self):
        return int(self.flag("--listen").rpartition(":")[2])

    @property
    def metrics(self):
        return f"http://{self.flag('--metrics-listen')}"

    @property
    def state_dir(self):
        return pathlib.Path(self.flag("--state-dir"))

    def at(self, registry, user=None, password=None):
        return NodeClient(self.port, registry.login_server, self.installation.ready["ca_file"], user, password)

    def status(self):
        """The exit code of `wharfinger node status`, and what it printed."""
        done = run("node", "status", "--metrics", self.metrics, "--output", "json")
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    def log(self):
        """What it has logged since it was first started from here."""
        return pathlib.Path(self.program.log_file).read_text(errors="replace")

    def has(self, **expected):
        """Whether the status has these values; None while it cannot be asked."""
        _, status = self.status()
        return status is not None and all(status[name] == value for name, value in expected.items()) and status

    def until(self, what, timeout=120.0, **expected):
        try:
            return wait_until(lambda: self.has(**expected), what, timeout)
        except AssertionError as fault:
            if self.program.process is None:
                raise
            raise AssertionError(f"{fault}\n{self.program.log_tail()}") from None


def run(*arguments, timeout=180):
    """One command of wharfinger to its end."""
    return subprocess.run(
        [BINARY, *arguments], capture_output=True, text=True, timeout=timeout, env=clean_environment(), check=False
    )


def admin_node(installation, *arguments):
    """`wharfinger admin node …`, which must succeed; returns what it printed."""
    done = run("admin", "node", *arguments, "--database-url", installation.ready["database_url"])
    assert done.returncode == 0, done.stderr
    return done.stdout
