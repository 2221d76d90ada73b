"""What this machine is, and what else it was doing."""

import datetime
import os
import pathlib
import re
import socket
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Above this share of busy processors it is worth waiting for a quieter moment.
BUSY_SHARE = 0.15
LOOK_SECONDS = 0.4


class Failure(Exception):
    """A measurement could not be made. (A goal that was missed is a result, not a failure.)"""


def run(command, **options):
    """Runs a program to its end and returns what it printed."""
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if finished.returncode != 0:
        tail = "\n".join((finished.stdout + finished.stderr).splitlines()[-20:])
        raise Failure(f"{command[0]} ended with {finished.returncode}:\n{tail}")
    return finished.stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def resident_mebibytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE).group(1)) / 1024


def processor_seconds(pid):
    """What a process has taken of the processors so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Surroundings:
    """Looks before each measurement how busy the machine is with other things, and waits a while for it to be quiet."""

    def __init__(self, wait_seconds):
        self.wait_seconds = wait_seconds
        self.busy = []
        self.load_before = os.getloadavg()

    def settle(self):
        deadline = time.monotonic() + self.wait_seconds
        while True:
            share = busy_share()
            if share <= BUSY_SHARE or time.monotonic() >= deadline:
                self.busy.append(share)
                return

    def text(self):
        before = ", ".join(f"{load:.2f}" for load in self.load_before)
        return (
            f"busy with other things just before a measurement: {statistics.median(self.busy):.0%} of the processors "
            f"(median of {len(self.busy)} looks), {max(self.busy):.0%} at most; load average before the run {before}"
        )


def busy_share():
    """The share of the processors' time that went to anything, or was taken by the host."""
    before = processor_times()
    time.sleep(LOOK_SECONDS)
    after = processor_times()
    spent = [then - now for then, now in zip(after, before)]
    idle = spent[3] + spent[4]
    return 1 - idle / max(sum(spent), 1)


def processor_times():
    first = pathlib.Path("/proc/stat").read_text().splitlines()[0]
    return [int(word) for word in first.split()[1:9]]


def run_name():
    """When it was and of which commit; a plus says that there was more in the tree."""
    commit = run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT).strip()
    changed = run(["git", "status", "--porcelain", "--", "crates", "migrations", "Cargo.lock"], cwd=ROOT).strip()
    when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")
    return f"{when} {commit}{'+' if changed else ''}"


def description():
    """The machine and the programs, as lines of Markdown."""
    processors = re.findall(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1))
    system = re.search(r'^PRETTY_NAME="(.*)"', pathlib.Path("/etc/os-release").read_text(), re.MULTILINE).group(1)
    return [
        f"- {len(processors)} × {processors[0]}, {memory / 1024 / 1024:.0f} GiB, {system}, "
        f"Linux {os.uname().release}",
        f"- {rust_version()}, Postgres {postgres_version()}, {nginx_version()}, wrk {wrk_version()}, "
        f"docker-registry {docker_registry_version()}",
    ]


def postgres_version():
    """Of the server: `wharfinger dev` takes the one whose programs these are."""
    return run(["psql", "--version"]).split()[2]


def rust_version():
    return " ".join(run(["rustc", "--version"], cwd=ROOT).split()[:2])


def nginx_version():
    finished = subprocess.run(["/usr/sbin/nginx", "-v"], stderr=subprocess.PIPE, text=True, check=True)
    return finished.stderr.strip().removeprefix("nginx version: ").replace("/", " ")


def docker_registry_version():
    return run(["docker-registry", "--version"]).split()[-1]


def wrk_version():
    finished = subprocess.run(["wrk", "-v"], stdout=subprocess.PIPE, text=True)
    return finished.stdout.split()[1].removeprefix("debian/")
