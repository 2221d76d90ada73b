"""The Graph subset as curl meets it, and the rights of the directory."""

import uuid

import pytest

from harness.control_plane import Principal
from harness.ending_secret import with_a_secret_that_ends
from harness.names import fresh_name
from harness.waiting import wait_until


def graph_error(response, status, *codes):
    assert response.status_code == status, f"{response.status_code} {response.text}"
    error = response.json()["error"]
    assert error["message"]
    if codes:
        assert error["code"] in codes
    return error


@pytest.fixture
def member(control_plane):
    """Somebody without any right beyond being in the directory."""
    return control_plane.of(control_plane.new_principal())


def test_everybody_may_read(member, control_plane):
    other = control_plane.new_principal()
    shown = member.expect(200, "GET", f"/v1.0/servicePrincipals/{other.object_id}")
    assert shown["appId"] == other.client_id
    assert shown["passwordCredentials"] == []
    assert shown["keyCredentials"] == []
    application = member.expect(200, "GET", f"/v1.0/applications/{other.application_id}")
    assert [entry.get("secretText") for entry in application["passwordCredentials"]] == [None]


def test_everybody_may_create_and_owns_what_they_created(member):
    own = member.new_principal()
    added = member.add_password("servicePrincipals", own.object_id)
    assert member.token_response(Principal(own.client_id, added["secretText"])).status_code == 200
    member.expect(204, "DELETE", f"/v1.0/applications/{own.application_id}")
    graph_error(member.request("GET", f"/v1.0/servicePrincipals/{own.object_id}"), 404, "Request_ResourceNotFound")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1.0/applications/{application}/addPassword", {"passwordCredential": {"displayName": "mine"}}),
        ("POST", "/v1.0/servicePrincipals/{service}/addPassword", {"passwordCredential": {"displayName": "mine"}}),
        ("POST", "/v1.0/applications/{application}/removePassword", {"keyId": str(uuid.uuid4())}),
        ("PATCH", "/v1.0/applications/{application}", {"displayName": "taken over"}),
        ("DELETE", "/v1.0/applications/{application}", None),
        ("DELETE", "/v1.0/servicePrincipals/{service}", None),
    ],
)
def test_nobody_may_change_what_somebody_else_owns(member, control_plane, method, path, body):
    other = control_plane.new_principal()
    path = path.format(application=other.application_id, service=other.object_id)
    graph_error(member.request(method, path, json=body), 403, "Authorization_RequestDenied")
    assert control_plane.of(other).token_response().status_code == 200


def test_the_directory_administrator_may(control_plane, member):
    own = member.new_principal()
    added = control_plane.add_password("applications", own.application_id)
    assert member.token_response(Principal(own.client_id, added["secretText"])).status_code == 200


def test_secrets_of_application_and_service_principal_both_log_in(control_plane, registry, at):
    principal = control_plane.new_principal_with("AcrPull", registry.id)
    second = control_plane.add_password("servicePrincipals", principal.object_id)["secretText"]
    for secret in (principal.client_secret, second):
        assert at(registry, principal.client_id, secret).login_status() == 200
        assert control_plane.token_response(Principal(principal.client_id, secret)).status_code == 200


def test_a_removed_secret_is_refused_at_once_and_the_others_are_not(control_plane, registry, at):
    principal = control_plane.new_principal_with("AcrPull", registry.id)
    second = control_plane.add_password("applications", principal.application_id)
    client = at(registry, principal.client_id, second["secretText"])
    token = client.token()
    control_plane.expect(
        204, "POST", f"/v1.0/applications/{principal.application_id}/removePassword", json={"keyId": second["keyId"]}
    )
    assert client.login_status() == 401
    assert client.request("GET", "/v2/", token=token).status_code == 401
    assert at(registry, principal.client_id, principal.client_secret).login_status() == 200


@pytest.mark.parametrize(
    ("start", "end", "valid"),
    [
        ("2199-01-01T00:00:00Z", "2199-06-01T00:00:00Z", False),
        ("2020-01-01T00:00:00Z", "2199-01-01T00:00:00Z", True),
    ],
    ids=["not yet", "now"],
)
def test_a_secret_is_valid_between_its_dates(control_plane, registry, at, start, end, valid):
    principal = control_plane.new_principal_with("AcrPull", registry.id)
    dated = control_plane.add_password(
        "applications", principal.application_id, startDateTime=start, endDateTime=end
    )["secretText"]  # fmt: skip
    expected = 200 if valid else 401
    assert at(registry, principal.client_id, dated).login_status() == expected
    assert control_plane.token_response(Principal(principal.client_id, dated)).status_code == expected


def test_a_secret_ends_at_its_end(control_plane, registry, at):
    principal = control_plane.new_principal_with("AcrPull", registry.id)

    def tokens(dated):
        client = at(registry, dated.client_id, dated.client_secret)
        view = control_plane.of(dated)
        return client, view, client.token(), view.token()

    (client, view, token, arm_token), _ = with_a_secret_that_ends(control_plane, principal, tokens, "seconds")
    wait_until(lambda: client.login_status() == 401, "the end of the secret")
    assert client.request("GET", "/v2/", token=token).status_code == 401
    assert view.token_response().status_code == 401
    assert view.request("GET", "/subscriptions", "2022-12-01", token=arm_token).status_code == 401


def test_a_secret_that_has_already_ended_is_not_made(control_plane):
    own = control_plane.new_principal()
    body = {"passwordCredential": {"endDateTime": "2021-01-01T00:00:00Z"}}
    answer = control_plane.request("POST", f"/v1.0/applications/{own.application_id}/addPassword", json=body)
    assert "2021-01-01" in graph_error(answer, 400, "Request_BadRequest")["message"]


def test_a_deleted_service_principal_loses_everything_at_once(control_plane, registry, at):
    principal = control_plane.new_principal_with("AcrPush", registry.id)
    view = control_plane.of(principal)
    client = at(registry, principal.client_id, principal.client_secret)
    view.expect(200, "GET", "/subscriptions", "2022-12-01")
    token = client.token()
    control_plane.expect(204, "DELETE", f"/v1.0/servicePrincipals/{principal.object_id}")
    assert view.request("GET", "/subscriptions", "2022-12-01").status_code == 401
    assert client.request("GET", "/v2/", token=token).status_code == 401
    assert client.login_status() == 401


def test_look_ups_by_filter(control_plane):
    name = fresh_name("o'brien-")
    principal = control_plane.new_principal(name)
    quoted = name.replace("'", "''")
    for collection, filter in (
        ("servicePrincipals", f"displayName eq '{quoted}'"),
        ("servicePrincipals", f"displayname eq '{quoted}'"),
        ("servicePrincipals", f"startswith(displayName,'{quoted}')"),
        ("servicePrincipals", f"servicePrincipalNames/any(c:c eq '{principal.client_id}')"),
        ("servicePrincipals", f"appId eq '{principal.client_id}'"),
        ("applications", f"appId eq '{principal.client_id}'"),
        ("applications", f"startswith(displayName,'{quoted}')"),
    ):
        found = control_plane.expect(200, "GET", f"/v1.0/{collection}", params={"$filter": filter})["value"]
        assert [entry["appId"] for entry in found] == [principal.client_id], filter


def test_get_by_ids_tells_what_each_is(control_plane):
    principal = control_plane.new_principal()
    answer = control_plane.expect(
        200, "POST", "/v1.0/directoryObjects/getByIds",
        json={"ids": [principal.object_id, str(uuid.uuid4())], "types": ["user", "group", "servicePrincipal"]},
    )  # fmt: skip
    assert [(entry["@odata.type"], entry["id"]) for entry in answer["value"]] == [
        ("#microsoft.graph.servicePrincipal", principal.object_id)
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1.0/servicePrincipals/not-a-guid", None),
        ("GET", f"/v1.0/applications/{uuid.UUID(int=5)}", None),
        ("POST", "/v1.0/servicePrincipals", {"appId": str(uuid.UUID(int=5))}),
        ("POST", "/v1.0/servicePrincipals", {"appId": "x"}),
        ("POST", "/v1.0/applications", {"displayName": ""}),
        ("POST", "/v1.0/applications", {"displayName": "x" * 5000}),
        ("GET", "/v1.0/harbours", None),
    ],
)
def test_faults_are_graph_errors(control_plane, method, path, body):
    answer = control_plane.request(method, path, json=body)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["code"]


def test_without_a_token(control_plane):
    graph_error(control_plane.request("GET", "/v1.0/applications", token=False), 401)
