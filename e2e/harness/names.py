"""Names for what a test makes, and their resolution.

`*.localhost` is this machine by RFC 6761, but not every resolver knows. Python gets it from a small override, glibc
from libnss-myhostname, and programs that read nothing but /etc/hosts (dockerd, static docker clients) from lines that
are added there for the names in use and removed at the end of the run.
"""

import fcntl
import os
import secrets
import socket

HOSTS_FILE = "/etc/hosts"
MARK = f"# wharfinger e2e {os.getpid()}"

_getaddrinfo = socket.getaddrinfo


def _localhost_first(host, *arguments, **options):
    name = host.decode() if isinstance(host, bytes) else host
    if isinstance(name, str) and name.rstrip(".").endswith(".localhost"):
        host = "127.0.0.1"
    return _getaddrinfo(host, *arguments, **options)


def install_resolver():
    """From here on Python resolves `*.localhost` to 127.0.0.1."""
    socket.getaddrinfo = _localhost_first


def fresh_name(prefix="e2e"):
    """A name nobody used before: fit for a registry, a group, a repository."""
    return f"{prefix}{secrets.token_hex(5)}"


def make_resolvable(host):
    """Adds a line for `host` to /etc/hosts where we may; elsewhere the resolver has to know."""
    if os.geteuid() != 0:
        return
    with open(HOSTS_FILE, "a", encoding="utf-8") as hosts:
        fcntl.flock(hosts, fcntl.LOCK_EX)
        hosts.write(f"127.0.0.1 {host} {MARK}\n")


def forget_names():
    """Takes our lines, and those of runs that died before they could, out of /etc/hosts."""
    if os.geteuid() != 0:
        return
    with open(HOSTS_FILE, "r+", encoding="utf-8") as hosts:
        fcntl.flock(hosts, fcntl.LOCK_EX)
        kept = [line for line in hosts if not _is_left_over(line)]
        # The file may be a bind mount, which cannot be replaced: it is rewritten in place.
        hosts.seek(0)
        hosts.writelines(kept)
        hosts.truncate()


def _is_left_over(line):
    _, found, pid = line.partition("# wharfinger e2e ")
    if not found:
        return False
    return int(pid) == os.getpid() or not os.path.exists(f"/proc/{int(pid)}")
