"""A running `wharfinger dev`, its processes and its files."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from .evidence import EVIDENCE
from .waiting import free_port, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARENT_VARIABLE = "WHARFINGER_PARENT_PROCESS_ID"
BINARY = os.environ.get("WHARFINGER_BIN", str(ROOT / "target/debug/wharfinger"))
# A node says this when it starts, has waited for a control plane for some seconds, and goes on without one.
SERVES_FROM_COPY = "serving from the copy"
# The longest there is: on a busy machine a node may take a change up late, and then it is still in force when it is answered.
PROPAGATION_TIMEOUT_SECONDS = 9


class Installation:
    """One state directory with the ports, log and ready file that go with it. May be started and stopped many times."""

    def __init__(self, *options, state_dir=None, propagation_timeout_seconds=PROPAGATION_TIMEOUT_SECONDS):
        # Directly below /tmp: the private Postgres runs as another user, who has to be able to walk the path.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="wharfinger-e2e-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.state_dir = pathlib.Path(state_dir) if state_dir else self.directory / "state"
        self.ready_file = self.directory / "ready.json"
        self.log_file = self.directory / "log"
        self.output_file = self.directory / "output"
        self.port = free_port()
        self.registry_port = free_port()
        self.options = list(options)
        self.environment = {"WHARFINGER_PROPAGATION_TIMEOUT": str(propagation_timeout_seconds)}
        self.process = None
        self.revived = []

    def command(self):
        return [
            BINARY, "dev",
            "--state-dir", str(self.state_dir),
            "--port", str(self.port),
            "--registry-port", str(self.registry_port),
            "--ready-file", str(self.ready_file),
            *self.options,
        ]  # fmt: skip

    def spawn(self, environment=None):
        """Starts the process and does not wait."""
        self.ready_file.unlink(missing_ok=True)
        with open(self.log_file, "ab") as log, open(self.output_file, "ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=clean_environment() | self.environment | (environment or {}),
                start_new_session=True,
            )

    def start(self, timeout=240):
        """Starts it and returns once all is serving."""
        self.spawn()
        self.wait_ready(timeout)
        return self

    def log_of(self, role):
        """What a role has logged, as long as `wharfinger dev` itself keeps it alive."""
        return (self.state_dir / "logs" / f"{role}.log").read_text(errors="replace")

    def wait_ready(self, timeout=240):
        def look():
            if self.process.poll() is not None:
                raise AssertionError(f"wharfinger dev ended with {self.process.returncode}:\n{self.log_tail()}")
            return self.read_ready()

        try:
            wait_until(look, "the ready file", timeout)
        except AssertionError as fault:
            raise AssertionError(f"{fault}\n{self.log_tail()}") from None

    def read_ready(self):
        """The ready file's object, or None while there is none."""
        try:
            ready = json.loads(self.ready_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        EVIDENCE.secret(ready["client_secret"], "the bootstrap principal's secret")
        return ready

    @property
    def ready(self):
        ready = self.read_ready()
        assert ready is not None, "there is no ready file"
        return ready

    def pid(self, role):
        return self.ready["pids"][role]

    @property
    def node_role(self):
        return f"registry-node-{next(iter(self.ready['regions']))}"

    def stop(self, signal_number=signal.SIGINT, timeout=150):
        """Ends it as Ctrl-C would, waits for the end and returns the exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"wharfinger dev did not end within {timeout} s of {signal_number!r}") from None

    def remove(self):
        """Stops what runs and deletes every file."""
        for child in self.revived:
            child.end()
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def log_tail(self, lines=6):
        texts = []
        for file in (self.output_file, self.log_file, *sorted(self.state_dir.glob("logs/*"))):
            if file.exists():
                texts.append(f"-- {file.name}")
                texts += file.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(texts)

    # Killing one process and bringing it back, with the command line it had. (`--no-restart` keeps it dead meanwhile.)

    def remember(self, role):
        return Program.of(self.pid(role), self.directory / f"{role}.revived.log")

    def kill(self, role):
        """kill -9; returns what is needed to start it again."""
        program = self.remember(role)
        os.kill(program.pid, signal.SIGKILL)
        for revived in self.revived:
            if revived.pid == program.pid:
                # Ours to collect: until then its process id is taken, which Postgres takes for life.
                revived.process.wait()
        wait_until(lambda: not is_alive(program.pid), f"the end of {role}")
        return program

    def revive(self, program, serving):
        """Starts a killed program again and waits for `serving()`; a server that still finds its port or
        shared memory taken by a dying child of the killed one is started once more."""
        deadline = time.monotonic() + 240
        program.start()
        self.revived.append(program)
        while not serving():
            if program.process.poll() is not None:
                assert time.monotonic() < deadline, f"{program.arguments[0]} did not come back:\n{program.log_tail()}"
                program.start()
            assert time.monotonic() < deadline, f"{program.arguments[0]} does not serve:\n{program.log_tail()}"
            time.sleep(0.1)


class Program:
    """A process that can be started again as it was: arguments, environment, directory, user."""

    def __init__(self, pid, arguments, environment, directory, user_id, log_file):
        self.pid = pid
        self.arguments = arguments
        self.environment = environment
        self.directory = directory
        self.user_id = user_id
        self.log_file = log_file
        self.process = None

    @classmethod
    def of(cls, pid, log_file):
        proc = pathlib.Path(f"/proc/{pid}")
        arguments = [os.fsdecode(part) for part in (proc / "cmdline").read_bytes().split(b"\0")[:-1]]
        pairs = [part.partition(b"=") for part in (proc / "environ").read_bytes().split(b"\0") if part]
        environment = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
        # By this a child knows whose end it must not outlive; the revived one is ours to end.
        environment.pop(PARENT_VARIABLE, None)
        arguments[0] = os.readlink(proc / "exe").removesuffix(" (deleted)")
        return cls(pid, arguments, environment, os.readlink(proc / "cwd"), proc.stat().st_uid, log_file)

    def start(self):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                self.arguments,
                env=self.environment,
                cwd=self.directory,
                user=self.user_id if os.geteuid() == 0 else None,
                group=self.user_id_group() if os.geteuid() == 0 else None,
                # Held open: a child may take the end of its stdin for the end of its parent.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self.pid = self.process.pid

    def user_id_group(self):
        import pwd

        return pwd.getpwuid(self.user_id).pw_gid

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log_tail(self, lines=20):
        return "\n".join(pathlib.Path(self.log_file).read_text(errors="replace").splitlines()[-lines:])


def is_alive(pid):
    """Whether any thread of the process runs; one that ended and was not yet collected by its parent does not.

    A killed process counts as a zombie as soon as its first thread is gone: another one, in the middle of an fsync,
    may still hold its ports and locks.
    """
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def clean_environment():
    """Ours, without what would lead a tool to another database, cloud, daemon or proxy."""
    dropped = {"DATABASE_URL", "RUST_LOG", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "DOCKER_HOST", "CURL_CA_BUNDLE"}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(("AWS_", "AZURE_", "ARM_", "WHARFINGER_", "PG"))
        and not name.lower().endswith("_proxy")
    }  # fmt: skip
