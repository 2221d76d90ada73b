"""Every command of `az ad app|sp|user|group|signed-in-user` that a directory of our kind has an answer to."""

import json
import uuid

import pytest

from harness.control_plane import Principal
from harness.evidence import EVIDENCE
from harness.names import fresh_name
from harness.waiting import wait_until


@pytest.fixture
def application(az):
    application = az.json("ad", "app", "create", "--display-name", fresh_name("app"))
    yield application
    az.run("ad", "app", "delete", "--id", application["appId"], exit_code=None)


@pytest.fixture
def user(az):
    name = fresh_name("ann")
    password = EVIDENCE.secret(f"Correct-horse-{uuid.uuid4()}", "a user's password")
    user = az.json(
        "ad", "user", "create", "--display-name", name, "--user-principal-name", f"{name}@wharf.test",
        "--password", password,
    )  # fmt: skip
    yield user
    az.run("ad", "user", "delete", "--id", user["id"], exit_code=None)


@pytest.fixture
def team(az):
    name = fresh_name("team")
    team = az.json("ad", "group", "create", "--display-name", name, "--mail-nickname", name, "--description", "a team")
    yield team
    az.run("ad", "group", "delete", "--group", team["id"], exit_code=None)


def ids(objects):
    return sorted(found["id"] for found in objects)


def test_applications(az, application):
    app_id, object_id = application["appId"], application["id"]
    name = application["displayName"]
    assert ids(az.json("ad", "app", "list", "--display-name", name)) == [object_id]
    assert ids(az.json("ad", "app", "list", "--app-id", app_id)) == [object_id]
    assert ids(az.json("ad", "app", "list", "--filter", f"displayname eq '{name}'")) == [object_id]
    assert object_id in ids(az.json("ad", "app", "list", "--show-mine"))
    assert az.json("ad", "app", "list", "--identifier-uri", "api://nothing") == []
    az.run("ad", "app", "update", "--id", app_id, "--display-name", f"{name}-renamed")
    assert az.json("ad", "app", "show", "--id", app_id)["displayName"] == f"{name}-renamed"
    assert az.json("ad", "app", "permission", "list", "--id", app_id) == []
    refused = az.fails("ad", "app", "update", "--id", app_id, "--web-redirect-uris", "https://w.test")
    assert "'web'" in refused and "Traceback" not in refused
    az.run("ad", "app", "delete", "--id", object_id)
    assert "Traceback" not in az.fails("ad", "app", "show", "--id", app_id)


def test_credentials_of_an_application(az, application):
    app_id = application["appId"]
    reset = az.json("ad", "app", "credential", "reset", "--id", app_id, "--display-name", "first")
    EVIDENCE.secret(reset["password"], "a service principal's secret")
    second = az.json("ad", "app", "credential", "reset", "--id", app_id, "--append", "--years", "3")
    EVIDENCE.secret(second["password"], "a service principal's secret")
    listed = az.json("ad", "app", "credential", "list", "--id", app_id)
    assert len(listed) == 2
    assert {"first"} <= {entry["displayName"] for entry in listed}
    assert all(entry["secretText"] is None and entry["lastUsedDateTime"] is None for entry in listed)
    az.run("ad", "app", "credential", "delete", "--id", app_id, "--key-id", listed[0]["keyId"])
    assert len(az.json("ad", "app", "credential", "list", "--id", app_id)) == 1
    for _ in range(2):
        az.run("ad", "app", "credential", "reset", "--id", app_id, "--create-cert", "--append")
    certificates = az.json("ad", "app", "credential", "list", "--id", app_id, "--cert")
    assert len(certificates) == 2
    assert all(len(entry["customKeyIdentifier"]) == 40 for entry in certificates)
    az.run("ad", "app", "credential", "delete", "--id", app_id, "--key-id", certificates[0]["keyId"], "--cert")
    assert len(az.json("ad", "app", "credential", "list", "--id", app_id, "--cert")) == 1


def test_federated_credentials(az, application, tmp_path):
    app_id = application["appId"]
    parameters = {
        "name": "main",
        "issuer": "https://token.example",
        "subject": "repo:org/app:ref:refs/heads/main",
        "description": "pushes of main",
        "audiences": ["api://wharfinger"],
    }
    command = ("ad", "app", "federated-credential")
    created = az.json(*command, "create", "--id", app_id, "--parameters", json.dumps(parameters))
    assert parameters.items() <= created.items()
    assert ids(az.json(*command, "list", "--id", app_id)) == [created["id"]]
    of_one = ("--id", app_id, "--federated-credential-id", "main")
    az.run(*command, "update", *of_one, "--parameters", json.dumps(parameters | {"subject": "repo:org/app:pull_request"}))
    assert az.json(*command, "show", *of_one)["subject"] == "repo:org/app:pull_request"
    az.run(*command, "delete", *of_one)
    assert az.json(*command, "list", "--id", app_id) == []
    assert "Traceback" not in az.fails(*command, "show", *of_one)


def test_owners_of_an_application(az, application, control_plane):
    app_id = application["appId"]
    other = control_plane.new_principal()
    before = ids(az.json("ad", "app", "owner", "list", "--id", app_id))
    for _ in range(2):
        az.run("ad", "app", "owner", "add", "--id", app_id, "--owner-object-id", other.object_id)
    assert ids(az.json("ad", "app", "owner", "list", "--id", app_id)) == sorted([*before, other.object_id])
    control_plane.of(other).add_password("applications", application["id"])
    az.run("ad", "app", "owner", "remove", "--id", app_id, "--owner-object-id", other.object_id)
    assert ids(az.json("ad", "app", "owner", "list", "--id", app_id)) == before
    refused = control_plane.of(other).request("POST", f"/v1.0/applications/{application['id']}/addPassword", json={})
    assert refused.status_code == 403


def test_service_principals(az, application, control_plane):
    app_id = application["appId"]
    created = az.json("ad", "sp", "create", "--id", app_id)
    object_id = created["id"]
    assert az.json("ad", "sp", "show", "--id", app_id)["id"] == object_id
    assert ids(az.json("ad", "sp", "list", "--spn", app_id)) == [object_id]
    assert ids(az.json("ad", "sp", "list", "--display-name", application["displayName"])) == [object_id]
    assert object_id in ids(az.json("ad", "sp", "list", "--show-mine"))
    assert len(az.json("ad", "sp", "owner", "list", "--id", app_id)) == 1
    reset = az.json("ad", "sp", "credential", "reset", "--id", app_id)
    principal = Principal(app_id, reset["password"])
    assert control_plane.token_response(principal).status_code == 200
    listed = az.json("ad", "sp", "credential", "list", "--id", app_id)
    assert len(listed) == 1
    az.run("ad", "sp", "update", "--id", object_id, "--set", "accountEnabled=false")
    assert az.json("ad", "sp", "show", "--id", object_id)["accountEnabled"] is False
    assert control_plane.token_response(principal).status_code in (400, 401)
    az.run("ad", "sp", "update", "--id", object_id, "--set", "accountEnabled=true")
    az.run("ad", "sp", "credential", "delete", "--id", app_id, "--key-id", listed[0]["keyId"])
    assert az.json("ad", "sp", "credential", "list", "--id", app_id) == []
    az.run("ad", "sp", "delete", "--id", app_id)
    assert az.json("ad", "sp", "list", "--spn", app_id) == []


def test_create_for_rbac_with_a_certificate(az, registry):
    name = fresh_name("bot")
    created = az.json(
        "ad", "sp", "create-for-rbac", "--name", name, "--create-cert", "--role", "AcrPull", "--scopes", registry.id
    )
    assert created["fileWithCertAndPrivateKey"]
    certificates = az.json("ad", "app", "credential", "list", "--id", created["appId"], "--cert")
    assert len(certificates) == 1
    assert certificates[0]["type"] == "AsymmetricX509Cert"
    az.run("ad", "app", "delete", "--id", created["appId"])


def test_users(az, user):
    name = user["userPrincipalName"]
    assert az.json("ad", "user", "show", "--id", name)["id"] == user["id"]
    assert ids(az.json("ad", "user", "list", "--upn", name)) == [user["id"]]
    assert ids(az.json("ad", "user", "list", "--display-name", user["displayName"])) == [user["id"]]
    assert user["id"] in ids(az.json("ad", "user", "list"))
    az.run("ad", "user", "update", "--id", name, "--display-name", "Ann Other", "--mail-nickname", "other")
    az.run("ad", "user", "update", "--id", user["id"], "--account-enabled", "false")
    shown = az.json("ad", "user", "show", "--id", user["id"])
    assert (shown["displayName"], shown["mailNickname"], shown["accountEnabled"]) == ("Ann Other", "other", False)
    password = EVIDENCE.secret(f"Another-horse-{uuid.uuid4()}", "a user's password")
    az.run("ad", "user", "update", "--id", name, "--password", password, "--force-change-password-next-sign-in", "false")
    assert "complexity" in az.fails("ad", "user", "update", "--id", name, "--password", "short")
    assert az.json("ad", "user", "get-member-groups", "--id", name) == []
    az.run("ad", "user", "delete", "--id", name)
    assert "Traceback" not in az.fails("ad", "user", "show", "--id", name)


def test_a_role_for_somebody_with_a_quote_in_the_name(az, registry):
    name = f"o'{fresh_name('neil')}@wharf.test"
    password = EVIDENCE.secret(f"Correct-horse-{uuid.uuid4()}", "a user's password")
    user = az.json(
        "ad", "user", "create", "--display-name", "O'Neil", "--user-principal-name", name, "--password", password,
        "--mail-nickname", fresh_name("neil"),
    )  # fmt: skip
    assigned = az.json(
        "role", "assignment", "create", "--assignee", name, "--role", "AcrPull", "--scope", registry.id
    )  # fmt: skip
    assert assigned["principalId"] == user["id"]
    az.run("ad", "user", "delete", "--id", user["id"])


def test_groups(az, team, user, control_plane):
    name = team["displayName"]
    again = az.json("ad", "group", "create", "--display-name", name, "--mail-nickname", name)
    assert again["id"] == team["id"]
    assert az.json("ad", "group", "show", "--group", name)["description"] == "a team"
    assert ids(az.json("ad", "group", "list", "--display-name", name)) == [team["id"]]
    bot = control_plane.new_principal()
    inner_name = fresh_name("inner")
    inner = az.json("ad", "group", "create", "--display-name", inner_name, "--mail-nickname", inner_name)
    for member in (bot.object_id, inner["id"]):
        az.run("ad", "group", "member", "add", "--group", name, "--member-id", member)
    az.run("ad", "group", "member", "add", "--group", inner["id"], "--member-id", user["id"])
    assert "already exist" in az.fails("ad", "group", "member", "add", "--group", name, "--member-id", inner["id"])
    assert ids(az.json("ad", "group", "member", "list", "--group", name)) == sorted([bot.object_id, inner["id"]])
    check = ("ad", "group", "member", "check", "--group", name, "--member-id")
    assert az.json(*check, user["id"])["value"] is True
    assert az.json(*check, team["id"])["value"] is False
    of_user = az.json("ad", "user", "get-member-groups", "--id", user["userPrincipalName"])
    assert {entry["displayName"] for entry in of_user} == {name, inner_name}
    assert az.json("ad", "group", "get-member-groups", "--group", inner["id"]) == [team["id"]]
    az.run("ad", "group", "member", "remove", "--group", name, "--member-id", inner["id"])
    assert az.json(*check, user["id"])["value"] is False
    before = ids(az.json("ad", "group", "owner", "list", "--group", team["id"]))
    az.run("ad", "group", "owner", "add", "--group", team["id"], "--owner-object-id", user["id"])
    assert ids(az.json("ad", "group", "owner", "list", "--group", team["id"])) == sorted([*before, user["id"]])
    az.run("ad", "group", "owner", "remove", "--group", team["id"], "--owner-object-id", user["id"])
    az.run("ad", "group", "delete", "--group", inner["id"])


def test_the_signed_in_user(az, control_plane, application):
    found = control_plane.expect(
        200, "GET", "/v1.0/servicePrincipals", params={"$filter": f"appId eq '{control_plane.principal.client_id}'"}
    )
    assert az.json("ad", "signed-in-user", "show")["id"] == found["value"][0]["id"]
    owned = az.json("ad", "signed-in-user", "list-owned-objects", "--type", "application")
    assert application["id"] in ids(owned)


def test_a_team_is_a_group(az, team, registry, control_plane, at):
    """A member has what its group may, with the token that it holds, from one request to the next."""
    bot = control_plane.new_principal()
    az.run(
        "role", "assignment", "create", "--role", "AcrPush", "--scope", registry.id,
        "--assignee-object-id", team["id"], "--assignee-principal-type", "Group",
    )  # fmt: skip
    client = at(registry, bot.client_id, bot.client_secret)
    az.run("ad", "group", "member", "add", "--group", team["id"], "--member-id", bot.object_id)
    token = client.token("repository:app/web:pull,push")
    upload = lambda: client.request("POST", "/v2/app/web/blobs/uploads/", token=token).status_code  # noqa: E731
    assert upload() == 202
    az.run("ad", "group", "member", "remove", "--group", team["id"], "--member-id", bot.object_id)
    assert upload() == 401


def test_a_chosen_secret_signs_in(control_plane):
    bot = control_plane.new_principal()
    chosen = EVIDENCE.secret(f"my own secret {uuid.uuid4()}", "a chosen secret")
    added = control_plane.add_password("servicePrincipals", bot.object_id, secretText=chosen)
    assert added["secretText"] == chosen
    principal = Principal(bot.client_id, chosen)
    assert control_plane.token_response(principal).status_code == 200
    path = f"/v1.0/servicePrincipals/{bot.object_id}"
    shown = lambda: control_plane.expect(200, "GET", path)["passwordCredentials"][0]["lastUsedDateTime"]  # noqa: E731
    wait_until(lambda: shown() is not None, "the use of the secret to be shown")
    control_plane.expect(204, "POST", f"{path}/removePassword", json={"keyId": added["keyId"]})
    assert control_plane.token_response(principal).status_code == 401
