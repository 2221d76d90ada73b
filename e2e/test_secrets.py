"""Runs last: no secret of the whole run stands in a log, an error, a database dump, a process list or a node's copy."""

import os
import pathlib
import re
import subprocess

import pytest

from harness.evidence import EVIDENCE

# The files of the state directory whose purpose is to hold a secret; test_dev.py holds them to their owner's eyes only.
MEANT_TO_HOLD_SECRETS = (
    "bootstrap.json",
    "credential.json",
    "database-url",
    "key-encryption-key",
    "node-westus.join-token",
    "postgres-password",
)

# Every file is searched for every secret of a whole run.
pytestmark = pytest.mark.timeout(1800)

# Generated secrets are long and have no hyphen or dot, unlike ids and addresses.
SECRET_WORDS = re.compile(r"(?<![A-Za-z0-9+/=_.-])[A-Za-z0-9+/=_]{32,}(?![A-Za-z0-9+/=_.-])")


@pytest.fixture(scope="module")
def secrets(installation, control_plane, group):
    """Everything the other tests brought to light; and, so that this file can be run alone, one of each kind."""
    from harness.registry import RegistryClient

    registry = control_plane.new_registry(group)
    control_plane.admin_passwords(registry)
    passwords = control_plane.regenerate(registry, "password")
    principal = control_plane.new_principal_with("AcrPush", registry.id)
    for user, password in ((registry.name, passwords["password"]), (principal.client_id, principal.client_secret)):
        client = RegistryClient(registry.login_server, control_plane.ready["ca_file"], user, password)
        client.request("GET", "/v2/", token=client.token())
        client.request("GET", "/v2/no-such/tags/list")
        client.password = password[:-1]
        assert client.login_status() == 401
    control_plane.of(principal).token()
    remember_those_on_disk(installation)
    assert {
        "an admin password", "a service principal's secret", "the bootstrap principal's secret",
        "an access token of a node", "an access token of the control plane",
        "what credential.json holds", "what key-encryption-key holds", "what node-westus.join-token holds",
        "what postgres-password holds",
    } <= EVIDENCE.kinds  # fmt: skip
    return list(EVIDENCE.forms())


def remember_those_on_disk(installation):
    """The credentials that the parts of an installation have among themselves."""
    for name in MEANT_TO_HOLD_SECRETS:
        for file in installation.state_dir.rglob(name):
            for value in SECRET_WORDS.findall(file.read_text()):
                EVIDENCE.secret(value, f"what {name} holds")


def leaks(secrets, content):
    return sorted({kind for kind, form in secrets if form in content})


def test_no_log_has_a_secret(installation, secrets):
    logs = [installation.log_file, *installation.state_dir.rglob("*.log"), *installation.state_dir.rglob("log/*")]
    assert logs
    for log in logs:
        assert leaks(secrets, log.read_bytes()) == [], log


def test_only_the_lines_to_paste_have_the_bootstrap_secret(installation, secrets):
    lines = installation.output_file.read_bytes().splitlines()
    others = b"\n".join(line for line in lines if b"az login" not in line)
    assert leaks(secrets, others) == []


def test_no_error_had_a_secret(secrets):
    assert EVIDENCE.texts
    for source, text in EVIDENCE.texts:
        assert leaks(secrets, text.encode()) == [], source


def test_a_dump_of_the_database_has_no_secret(ready, secrets):
    programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))
    dump = subprocess.run(
        [programs[-1] if programs else "pg_dump", "--dbname", ready["database_url"]],
        capture_output=True, check=True, timeout=300,
    ).stdout  # fmt: skip
    assert b"config_documents" in dump
    in_hex = [(f"{kind}, in hexadecimal", form.hex().encode()) for kind, form in secrets]
    assert leaks([*secrets, *in_hex], dump) == []


def test_a_nodes_copy_has_no_secret(installation, secrets):
    seen = 0
    for directory in installation.state_dir.glob("*node*"):
        for file in directory.rglob("*"):
            if file.is_file() and not file.is_symlink():
                seen += 1
                if file.name in MEANT_TO_HOLD_SECRETS:
                    continue
                assert leaks(secrets, file.read_bytes()) == [], file
    assert seen


def test_no_other_file_of_the_state_directory_has_a_secret(installation, secrets):
    for root, _, names in os.walk(installation.state_dir):
        for name in names:
            file = pathlib.Path(root) / name
            if file.is_file() and not file.is_symlink() and name not in MEANT_TO_HOLD_SECRETS:
                assert leaks(secrets, file.read_bytes()) == [], file


def test_no_command_line_has_a_secret(ready, installation, secrets):
    for pid in [installation.process.pid, *ready["pids"].values()]:
        assert leaks(secrets, pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()) == []


def test_metrics_have_no_secret(ready, control_plane, secrets):
    for url in ready["metrics"].values():
        text = control_plane.session.get(f"{url.removesuffix('/metrics')}/metrics", timeout=60).content
        assert leaks(secrets, text) == []
