"""Rights by repository, through groups and by custom roles, as nodes hold them: set up by the real az, used over the registry's protocol."""

import uuid

import pytest

from harness.control_plane import ASSIGNMENTS, DEFINITIONS, Registry
from harness.images import Image
from harness.names import fresh_name, make_resolvable
from harness.registry import RegistryClient

PROPAGATION = "x-wharfinger-propagation"
READER = "Container Registry Repository Reader"
WRITER = "Container Registry Repository Writer"
LISTER = "Container Registry Repository Catalog Lister"
ATTRIBUTE = "@Request[Microsoft.ContainerRegistry/registries/repositories:name]"
CONTENT = "Microsoft.ContainerRegistry/registries/repositories"


def condition(actions, *comparisons):
    guard = " AND ".join(f"!(ActionMatches{{'{CONTENT}/{action}'}})" for action in actions)
    names = " OR ".join(f"{ATTRIBUTE} {comparison}" for comparison in comparisons)
    return f"(({guard}) OR ({names}))"


@pytest.fixture
def by_repository(az, group):
    """A registry in which assignments count by repository, made by az."""
    resource = az.json(
        "acr", "create", "--name", fresh_name(), "--resource-group", group, "--sku", "Standard",
        "--role-assignment-mode", "rbac-abac", "--admin-enabled", "true",
    )  # fmt: skip
    registry = Registry({"properties": {"loginServer": resource["loginServer"]}} | resource)
    make_resolvable(registry.login_server.partition(":")[0])
    return registry


@pytest.fixture
def client_of(ready):
    return lambda registry, user, password: RegistryClient(registry.login_server, ready["ca_file"], user, password)


def fill(control_plane, registry, client_of, *repositories):
    """An image in each of these repositories, by the admin account."""
    password = control_plane.admin_passwords(registry)["password"]
    admin = client_of(registry, registry.name, password)
    for repository in repositories:
        admin.push_image(repository, "v1", Image(f"a layer of {repository}"))


def pushes(client, repository, token=None):
    """Whether an upload may begin."""
    answer = client.request("POST", f"/v2/{repository}/blobs/uploads/", token=token)
    assert answer.status_code in (202, 401), answer.text
    return answer.status_code == 202


def change(control_plane, method, path, api_version=None, **options):
    """A change that is in force when this returns."""
    answer = control_plane.request(method, path, api_version, **options)
    assert answer.ok, answer.text
    assert answer.headers[PROPAGATION] == "complete"
    return answer.json() if answer.content else None


def assign(az, principal, role, scope, *more):
    return az.json(
        "role", "assignment", "create", "--assignee-object-id", principal.object_id, "--assignee-principal-type",
        "ServicePrincipal", "--role", role, "--scope", scope, *more,
    )  # fmt: skip


def test_a_condition_gives_repositories_by_name_and_prefix(az, control_plane, by_repository, client_of):
    fill(control_plane, by_repository, client_of, "backend/api", "backend", "frontend")
    principal = control_plane.new_principal()
    pipeline = client_of(by_repository, principal.client_id, principal.client_secret)
    assert pipeline.login_status() == 401
    writes = condition(
        ["content/read", "content/write", "metadata/read", "metadata/write"], "StringStartsWithIgnoreCase 'backend/'"
    )
    reads = condition(["content/read", "metadata/read"], "StringEqualsIgnoreCase 'Frontend'")
    written = assign(az, principal, WRITER, by_repository.id, "--condition", writes, "--condition-version", "2.0")
    assert written["condition"] == writes and written["conditionVersion"] == "2.0"
    assign(az, principal, READER, by_repository.id, "--condition", reads, "--condition-version", "2.0")
    assert pipeline.login_status() == 200
    assert pipeline.pulls("backend/api", "v1") and pushes(pipeline, "backend/api")
    assert pipeline.pulls("frontend", "v1") and not pushes(pipeline, "frontend")
    assert not pipeline.pulls("backend", "v1") and not pushes(pipeline, "backend")
    assert pipeline.request("GET", "/v2/_catalog").status_code == 401
    assign(az, principal, LISTER, by_repository.id)
    catalog = pipeline.expect(200, "GET", "/v2/_catalog").json()
    assert catalog["repositories"] == ["backend", "backend/api", "frontend"]
    # A token holds no longer than the assignment that it came from.
    token = pipeline.token("repository:backend/api:pull,push repository:backend:pull")
    assert pipeline.pulls("backend/api", "v1", token) and not pipeline.pulls("backend", "v1", token)
    az.run("role", "assignment", "delete", "--ids", written["id"])
    assert not pipeline.pulls("backend/api", "v1", token) and not pushes(pipeline, "backend/api", token)
    assert pipeline.pulls("frontend", "v1")


def test_the_roles_of_the_whole_registry_count_in_the_other_mode_only(az, control_plane, by_repository, client_of):
    fill(control_plane, by_repository, client_of, "app")
    principal = control_plane.new_principal_with("AcrPush", by_repository.id)
    client = client_of(by_repository, principal.client_id, principal.client_secret)
    assert client.login_status() == 401
    az.run("acr", "update", "--name", by_repository.name, "--role-assignment-mode", "rbac")
    assert client.pulls("app", "v1") and pushes(client, "app")
    az.run("acr", "update", "--name", by_repository.name, "--role-assignment-mode", "rbac-abac")
    assert client.login_status() == 401


@pytest.mark.parametrize(
    "text",
    [
        "@Request[Microsoft.ContainerRegistry/registries/repositories:name] StringEqualsIgnoreCase 'app'",
        condition(["content/read"], "StringLike 'app*'"),
        "!(ActionMatches{'Microsoft.ContainerRegistry/registries/catalog/read'}) OR "
        "@Request[Microsoft.ContainerRegistry/registries/repositories:name] StringEqualsIgnoreCase 'app'",
    ],
)
def test_another_condition_is_refused_and_not_ignored(az, control_plane, registry, text):
    principal = control_plane.new_principal()
    refused = az.fails(
        "role", "assignment", "create", "--assignee-object-id", principal.object_id, "--assignee-principal-type",
        "ServicePrincipal", "--role", READER, "--scope", registry.id, "--condition", text, "--condition-version", "2.0",
    )  # fmt: skip
    assert "InvalidCondition" in refused and "StringStartsWithIgnoreCase" in refused
    listed = az.json("role", "assignment", "list", "--scope", registry.id, "--assignee-object-id", principal.object_id)
    assert listed == []


# Groups


def new_group(control_plane):
    name = fresh_name("team")
    body = {"displayName": name, "mailNickname": name, "mailEnabled": False, "securityEnabled": True}
    return control_plane.expect(201, "POST", "/v1.0/groups", json=body)["id"]


def add_member(control_plane, group, member):
    reference = {"@odata.id": f"{control_plane.url}/v1.0/directoryObjects/{member}"}
    change(control_plane, "POST", f"/v1.0/groups/{group}/members/$ref", json=reference)


def remove_member(control_plane, group, member):
    change(control_plane, "DELETE", f"/v1.0/groups/{group}/members/{member}/$ref")


def assign_to_group(control_plane, group, role_id, scope):
    body = {"roleDefinitionId": role_id, "principalId": group, "principalType": "Group"}
    path = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
    return change(control_plane, "PUT", path, ASSIGNMENTS, json={"properties": body})


def role_id(control_plane, name):
    return f"{control_plane.subscription}/providers/Microsoft.Authorization/roleDefinitions/{name}"


PUSH = "8311e382-0749-4cb8-b61a-304f252e45ec"
PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"


def test_who_is_moved_between_groups_loses_push_with_the_token_they_hold(control_plane, registry, client_of):
    fill(control_plane, registry, client_of, "app")
    developers, everyone = new_group(control_plane), new_group(control_plane)
    assign_to_group(control_plane, developers, role_id(control_plane, PUSH), registry.id)
    assign_to_group(control_plane, everyone, role_id(control_plane, PULL), registry.id)
    principal = control_plane.new_principal()
    client = client_of(registry, principal.client_id, principal.client_secret)
    add_member(control_plane, developers, principal.object_id)
    add_member(control_plane, everyone, principal.object_id)
    token = client.token("repository:app:pull,push")
    assert pushes(client, "app", token)
    remove_member(control_plane, developers, principal.object_id)
    assert not pushes(client, "app", token) and not pushes(client, "app")
    assert client.pulls("app", "v1", token)


def test_membership_reaches_through_groups_in_groups_and_circles(control_plane, registry, client_of):
    fill(control_plane, registry, client_of, "app")
    chain = [new_group(control_plane) for _ in range(4)]
    for inner, outer in zip(chain, chain[1:]):
        add_member(control_plane, outer, inner)
    # The outermost is a member of the innermost.
    add_member(control_plane, chain[0], chain[-1])
    assign_to_group(control_plane, chain[-1], role_id(control_plane, PULL), control_plane.subscription)
    principal = control_plane.new_principal()
    client = client_of(registry, principal.client_id, principal.client_secret)
    assert client.login_status() == 401
    add_member(control_plane, chain[0], principal.object_id)
    token = client.token("repository:app:pull")
    assert client.pulls("app", "v1", token) and not pushes(client, "app")
    # In the middle, two steps from the principal and from the role.
    remove_member(control_plane, chain[2], chain[1])
    assert not client.pulls("app", "v1", token)
    assert client.login_status() == 401


# Custom roles


def test_a_role_that_is_narrowed_takes_rights_from_tokens(control_plane, registry, client_of):
    fill(control_plane, registry, client_of, "app")
    name = str(uuid.uuid4())
    path = f"{control_plane.subscription}/providers/Microsoft.Authorization/roleDefinitions/{name}"

    def define(**permission):
        properties = {
            "roleName": f"Pipeline {name}",
            "type": "CustomRole",
            "permissions": [{"actions": [], "notActions": [], "dataActions": [], "notDataActions": []} | permission],
            "assignableScopes": [control_plane.subscription],
        }
        change(control_plane, "PUT", path, DEFINITIONS, json={"properties": properties})

    define(actions=["Microsoft.ContainerRegistry/registries/pu*"])
    principal = control_plane.new_principal()
    body = {"roleDefinitionId": path, "principalId": principal.object_id, "principalType": "ServicePrincipal"}
    assignment = f"{registry.id}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
    change(control_plane, "PUT", assignment, ASSIGNMENTS, json={"properties": body})
    client = client_of(registry, principal.client_id, principal.client_secret)
    token = client.token("repository:app:pull,push")
    assert pushes(client, "app", token)
    define(actions=["Microsoft.ContainerRegistry/registries/pu*"], notActions=["*/WRITE"])
    assert not pushes(client, "app", token) and client.pulls("app", "v1", token)
    change(control_plane, "DELETE", assignment, ASSIGNMENTS)
    assert client.login_status() == 401
