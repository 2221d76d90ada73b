"""`az acr login`: nobody types a password, and what is left with docker dies with the credential that it came from."""

import shutil

import pytest

from harness.evidence import EVIDENCE
from harness.images import Image
from harness.names import fresh_name
from harness.registry import error_codes

TOKEN_USER = "00000000-0000-0000-0000-000000000000"
REGISTRY_AUDIENCE = "https://containerregistry.azure.net/.default"


@pytest.fixture
def cli_with_docker(ready, fresh_cli, az, docker):
    """Makes a CLI of a service principal's that finds the docker client of this test."""

    def make(principal):
        cli = fresh_cli(**docker.environment())
        shutil.copy(az.directory / "clouds.config", cli.directory)
        shutil.copy(az.directory / "config", cli.directory)
        cli.login(principal.client_id, principal.client_secret, ready["tenant_id"])
        return cli

    return make


def exchange(client, form):
    """POST /oauth2/exchange; remembers what came of it."""
    response = client.request(
        "POST", "/oauth2/exchange", basic=False, data={"service": client.login_server, **form}
    )  # fmt: skip
    if response.status_code == 200:
        EVIDENCE.secret(response.json()["refresh_token"], "a refresh token of a registry")
    return response


def access_token(client, refresh_token, scope):
    return client.request(
        "POST", "/oauth2/token", basic=False,
        data={
            "grant_type": "refresh_token", "service": client.login_server, "scope": scope,
            "refresh_token": refresh_token,
        },
    )  # fmt: skip


def test_a_service_principal_pushes_and_pulls_after_az_acr_login(
    control_plane, registry, docker, cli_with_docker, busybox
):
    principal = control_plane.new_principal_with("AcrPush", registry.id)
    cli = cli_with_docker(principal)
    # AcrPush gives no right to read the registry's resource: the login server comes from the cloud's suffix.
    cli.run("acr", "login", "--name", registry.name)
    image = f"{registry.login_server}/team/app:v1"
    docker.import_image(busybox, image, "pushed after az acr login")
    digest = docker.push(image)
    docker.run("rmi", image)
    docker.run("pull", f"{registry.login_server}/team/app@{digest}")
    # What docker keeps dies with the secret that the CLI was signed in with.
    secrets = control_plane.expect(200, "GET", f"/v1.0/applications/{principal.application_id}")
    for secret in secrets["passwordCredentials"]:
        control_plane.expect(
            204, "POST", f"/v1.0/applications/{principal.application_id}/removePassword",
            json={"keyId": secret["keyId"]},
        )  # fmt: skip
    docker.run("rmi", "--force", f"{registry.login_server}/team/app@{digest}", exit_code=None)
    assert "unauthorized" in docker.fails("pull", f"{registry.login_server}/team/app@{digest}")


def test_an_owner_logs_in_by_the_resource_and_whoever_has_no_role_does_not(
    control_plane, group, registry, docker, az, fresh_cli, cli_with_docker
):
    owner = fresh_cli(**docker.environment())
    shutil.copytree(az.directory, owner.directory, dirs_exist_ok=True)
    owner.run("acr", "login", "--name", registry.name)
    docker.run("logout", registry.login_server)
    other = control_plane.new_registry(group)
    stranger = cli_with_docker(control_plane.new_principal_with("AcrPull", other.id))
    stranger.run("acr", "login", "--name", other.name)
    refused = stranger.fails("acr", "login", "--name", registry.name, "--expose-token")
    assert "401" in refused, refused


def test_tokens_of_sign_in_are_exchanged_until_what_they_came_from_is_gone(control_plane, registry, at):
    principal = control_plane.new_principal_with("AcrPush", registry.id)
    view = control_plane.of(principal)
    client = at(registry)
    for scope in (REGISTRY_AUDIENCE, f"{control_plane.url}/.default"):
        token = view.token(scope=scope)
        for grant in ("access_token", "access_token_refresh_token"):
            answer = exchange(client, {"grant_type": grant, "access_token": token})
            assert answer.status_code == 200, answer.text
            refresh = answer.json()["refresh_token"]
            granted = access_token(client, refresh, "repository:app:pull,push")
            assert granted.status_code == 200, granted.text
            client.push_image("app", "v1", Image(fresh_name()), token=granted.json()["access_token"])
    by_password = at(registry, TOKEN_USER, refresh)
    assert by_password.pulls("app", "v1") and by_password.pulls("app", "v1", by_password.token("repository:app:pull"))
    control_plane.expect(
        204, "PATCH", f"/v1.0/servicePrincipals/{principal.object_id}", json={"accountEnabled": False}
    )  # fmt: skip
    assert not by_password.pulls("app", "v1")
    assert access_token(client, refresh, "repository:app:pull").status_code == 401
    refused = exchange(client, {"grant_type": "access_token", "access_token": token})
    assert refused.status_code == 401 and error_codes(refused) == ["UNAUTHORIZED"]


def test_an_exposed_token_is_a_password_for_docker(control_plane, registry, docker, cli_with_docker):
    principal = control_plane.new_principal_with("AcrPull", registry.id)
    cli = cli_with_docker(principal)
    exposed = cli.json("acr", "login", "--name", registry.name, "--expose-token")
    token = EVIDENCE.secret(exposed["accessToken"], "an exposed token")
    assert exposed["username"] == TOKEN_USER
    assert exposed["loginServer"] == registry.login_server
    docker.login(exposed["loginServer"], exposed["username"], token)
    assert "unauthorized" in docker.login_fails(exposed["loginServer"], TOKEN_USER, token[:-20])


def test_a_person_logs_in_by_a_group_and_never_with_a_password(control_plane, registry, docker, az, fresh_cli, at):
    name = fresh_name("person")
    password = EVIDENCE.secret(f"Chosen-{fresh_name()}-9", "a person's password")
    host = control_plane.url.partition("//")[2].partition(":")[0]
    user = control_plane.expect(
        201, "POST", "/v1.0/users",
        json={
            "accountEnabled": True, "displayName": name, "mailNickname": name,
            "userPrincipalName": f"{name}@{host}.test",
            "passwordProfile": {"password": password, "forceChangePasswordNextSignIn": False},
        },
    )  # fmt: skip
    group = control_plane.expect(
        201, "POST", "/v1.0/groups",
        json={"displayName": fresh_name("team"), "mailNickname": name, "mailEnabled": False, "securityEnabled": True},
    )  # fmt: skip
    az.run(
        "role", "assignment", "create", "--assignee-object-id", group["id"], "--assignee-principal-type", "Group",
        "--role", "AcrPull", "--scope", registry.id,
    )  # fmt: skip
    membership = f"/v1.0/groups/{group['id']}/members"
    member = {"@odata.id": f"{control_plane.url}/v1.0/directoryObjects/{user['id']}"}
    control_plane.expect(204, "POST", f"{membership}/$ref", json=member)
    cli = fresh_cli(**docker.environment())
    shutil.copy(az.directory / "clouds.config", cli.directory)
    shutil.copy(az.directory / "config", cli.directory)
    cli.run("login", "--username", user["userPrincipalName"], "--password", password, "--allow-no-subscriptions")
    exposed = cli.json("acr", "login", "--name", registry.name, "--expose-token")
    token = EVIDENCE.secret(exposed["accessToken"], "an exposed token")
    cli.run("acr", "login", "--name", registry.name)
    by_token = at(registry, TOKEN_USER, token)
    assert by_token.login_status() == 200
    # A password of a person's is nothing to a node, whatever it may do.
    by_password = at(registry, user["userPrincipalName"], password)
    refused = by_password.request("GET", "/v2/")
    assert refused.status_code == 401 and "az acr login" in refused.text
    control_plane.expect(204, "DELETE", f"{membership}/{user['id']}/$ref")
    assert by_token.login_status() == 401
