"""What a node's gate takes and tells beside tokens: secrets that somebody chose, when secrets were used, who pushed and deleted what."""

import datetime

from harness.evidence import EVIDENCE
from harness.images import Image
from harness.names import fresh_name
from harness.waiting import wait_until


def this_hour():
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H")


def application(control_plane, principal):
    return control_plane.expect(200, "GET", f"/v1.0/applications/{principal.application_id}")


def test_a_chosen_secret_logs_in_with_docker_until_it_is_removed(control_plane, registry, at, docker, busybox):
    principal = control_plane.new_principal_with("AcrPush", registry.id)
    text = EVIDENCE.secret(f"chosen by a script {fresh_name()}", "a chosen secret")
    added = control_plane.add_password("applications", principal.application_id, secretText=text)
    assert added["secretText"] == text
    docker.login(registry.login_server, principal.client_id, text)
    image = f"{registry.login_server}/team/app:v1"
    docker.import_image(busybox, image, "pushed with a chosen secret")
    docker.push(image)
    client = at(registry, principal.client_id, text)
    token = client.token("repository:team/app:pull")
    assert client.login_status() == 200
    assert at(registry, principal.client_id, text + "x").login_status() == 401
    control_plane.expect(
        204, "POST", f"/v1.0/applications/{principal.application_id}/removePassword", json={"keyId": added["keyId"]}
    )  # fmt: skip
    assert client.login_status() == 401
    assert not client.pulls("team/app", "v1", token)
    assert "unauthorized" in docker.login_fails(registry.login_server, principal.client_id, text)


def test_a_secret_shows_when_it_was_last_used_at_a_node(control_plane, registry, at):
    principal = control_plane.new_principal_with("AcrPull", registry.id)
    unused = control_plane.add_password("applications", principal.application_id)
    before = this_hour()
    assert at(registry, principal.client_id, principal.client_secret).login_status() == 200

    def used():
        secrets = application(control_plane, principal)["passwordCredentials"]
        return {secret["keyId"]: secret.get("lastUsedDateTime") for secret in secrets}

    wait_until(lambda: any(used().values()), "the use of a secret")
    times = used()
    assert times.pop(unused["keyId"]) is None
    (last_used,) = times.values()
    assert last_used[:13] in (before, this_hour()) and last_used[13:] == ":00:00Z"


def test_a_node_logs_pushes_deletions_and_failed_logins_and_no_secret(installation, control_plane, registry, at):
    principal = control_plane.new_principal_with("AcrPush", registry.id)
    client = at(registry, principal.client_id, principal.client_secret)
    pushed = client.push_image("team/app", "v1", Image(fresh_name()))
    admin = at(registry, registry.name, control_plane.admin_passwords(registry)["password"])
    admin.expect(202, "DELETE", "/v2/team/app/manifests/v1")
    guess = EVIDENCE.secret(f"guessed {fresh_name()}", "a guess")
    assert at(registry, principal.client_id, guess).login_status() == 401
    lines = [line for line in node_lines(installation) if registry.name in line]
    (push,) = [line for line in lines if "push of" in line]
    assert principal.client_id in push and principal.object_id in push
    assert pushed.headers["Docker-Content-Digest"] in push and "team/app" in push and f"peer={client.address}" in push
    (deletion,) = [line for line in lines if "delete-tag of" in line]
    assert registry.name in deletion and "v1" in deletion
    assert any("failed" in line and principal.client_id in line for line in lines)
    assert not any(guess in line or principal.client_secret in line for line in lines)


def node_lines(installation):
    return [
        line
        for file in sorted(installation.state_dir.glob("logs/*node*"))
        for line in file.read_text(errors="replace").splitlines()
    ]
