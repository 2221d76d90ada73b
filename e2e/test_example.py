"""examples/ten-teams.sh provisions ten teams, and again without harm."""

import subprocess

import pytest

from harness.azure_cli import AZ
from harness.docker import Docker
from harness.evidence import EVIDENCE
from harness.installation import ROOT

SCRIPT = ROOT / "examples/ten-teams.sh"


@pytest.fixture(scope="module")
def run(az):
    def run():
        environment = az.environment | {"AZ": AZ, "LOCATION": "westus", "PREFIX": "e2eteams"}
        completed = subprocess.run(
            ["bash", str(SCRIPT)], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=1500, check=False,
        )  # fmt: skip
        assert completed.returncode == 0, completed.stderr
        return [line for line in completed.stdout.splitlines() if line.startswith("docker login ")]

    return run


def parts(line):
    """Server, user and password of a `docker login` line."""
    words = line.split()
    password = words[words.index("--password") + 1]
    EVIDENCE.secret(password, "a service principal's secret")
    return words[-1], words[words.index("--username") + 1], password


@pytest.mark.timeout(3000)
def test_ten_teams_can_log_in_and_a_second_run_changes_nothing_harmful(run, az, daemon, busybox):
    from harness.names import make_resolvable

    first = [parts(line) for line in run()]
    assert len(first) == 10
    assert len({server for server, _, _ in first}) == 10
    for server, _, _ in first:
        make_resolvable(server.partition(":")[0])
    server, user, password = first[0]
    docker = Docker(daemon)
    docker.login(server, user, password)
    image = f"{server}/hello:v1"
    docker.import_image(busybox, image, "hello")
    docker.push(image)

    assert run() == [], "a second run hands out no new secrets"
    for server, user, password in first:
        Docker(daemon).login(server, user, password)
    docker.run("image", "rm", image)
    docker.run("pull", image)
    Docker(daemon).login_fails(first[1][0], user=first[0][1], password=first[0][2])
    registries = az.json("acr", "list")
    assert len([entry for entry in registries if entry["name"].startswith("e2eteams")]) == 10
