"""Roles as people manage them with the Azure CLI: custom ones, groups that hold them, conditions, and who owns a subscription."""

import json

import pytest

from harness.names import fresh_name

CONDITION = (
    "((!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/content/read'}) AND "
    "!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/metadata/read'})) OR "
    "(@Request[Microsoft.ContainerRegistry/registries/repositories:name] StringStartsWithIgnoreCase 'backend/'))"
)


@pytest.fixture
def custom_role(az, control_plane):
    """A role that may read registries and renew their credentials; gone when the test is over."""
    name = fresh_name("role")
    definition = {
        "Name": name,
        "Description": "Reads registries and renews their credentials.",
        "Actions": [
            "Microsoft.ContainerRegistry/registries/read",
            "Microsoft.ContainerRegistry/registries/listCredentials/action",
            "Microsoft.ContainerRegistry/registries/regenerateCredential/action",
        ],
        "NotActions": [],
        "AssignableScopes": [control_plane.subscription],
    }
    yield az.json("role", "definition", "create", "--role-definition", json.dumps(definition))
    az.run("role", "definition", "delete", "--name", name)


@pytest.fixture
def team(az):
    """Makes a group with members."""

    def make(*members):
        name = fresh_name("team")
        group = az.json("ad", "group", "create", "--display-name", name, "--mail-nickname", name)["id"]
        for member in members:
            az.run("ad", "group", "member", "add", "--group", group, "--member-id", member)
        return group

    return make


def test_a_custom_role_may_only_read_and_renew_credentials(az, cli_of, control_plane, custom_role, registry):
    assert custom_role["roleType"] == "CustomRole"
    name = custom_role["roleName"]
    (listed,) = az.json("role", "definition", "list", "--name", name)
    assert listed["id"] == custom_role["id"]
    assert name in [role["roleName"] for role in az.json("role", "definition", "list", "--custom-role-only")]
    renewer = control_plane.new_principal()
    az.run("role", "assignment", "create", "--assignee", renewer.client_id, "--role", name, "--scope", registry.id)
    cli = cli_of(renewer.client_id, renewer.client_secret)
    assert cli.json("acr", "show", "--name", registry.name)["name"] == registry.name
    renewed = cli.json("acr", "credential", "renew", "--name", registry.name, "--password-name", "password")
    assert len(renewed["passwords"]) == 2
    assert "AuthorizationFailed" in cli.fails("acr", "update", "--name", registry.name, "--admin-enabled", "false")
    assert "AuthorizationFailed" in cli.fails("acr", "delete", "--name", registry.name, "--yes")
    # Changed, it is another role at the next request.
    changed = {
        "id": custom_role["id"],
        "roleName": name,
        "description": "Reads registries.",
        "permissions": [{"actions": ["Microsoft.ContainerRegistry/registries/read"]}],
        "assignableScopes": [control_plane.subscription],
    }
    az.run("role", "definition", "update", "--role-definition", json.dumps(changed))
    refused = cli.fails("acr", "credential", "renew", "--name", registry.name, "--password-name", "password")
    assert "AuthorizationFailed" in refused
    assert "RoleDefinitionHasAssignments" in az.fails("role", "definition", "delete", "--name", name)
    az.run("role", "assignment", "delete", "--assignee", renewer.client_id, "--role", name, "--scope", registry.id)


def test_lists_show_what_is_inherited_and_what_groups_hold(az, control_plane, group, registry, team):
    member = control_plane.new_principal()
    inner = team(member.object_id)
    outer = team(inner)
    az.run(
        "role", "assignment", "create", "--assignee-object-id", outer, "--assignee-principal-type", "Group",
        "--role", "Reader", "--scope", control_plane.group_id(group),
    )  # fmt: skip
    az.run("role", "assignment", "create", "--assignee", member.client_id, "--role", "AcrPull", "--scope", registry.id)

    def held(*arguments):
        listed = az.json("role", "assignment", "list", "--assignee", member.client_id, *arguments)
        return sorted((item["roleDefinitionName"], item["principalType"]) for item in listed)

    direct, by_group = ("AcrPull", "ServicePrincipal"), ("Reader", "Group")
    assert held("--all") == [direct]
    assert held("--all", "--include-inherited", "--include-groups") == [direct, by_group]
    assert held("--scope", registry.id) == [direct]
    assert held("--scope", registry.id, "--include-inherited") == [direct]
    assert held("--scope", registry.id, "--include-inherited", "--include-groups") == [direct, by_group]
    inherited = az.json("role", "assignment", "list", "--scope", registry.id, "--include-inherited")
    assert {"Owner", "Reader", "AcrPull"} <= {item["roleDefinitionName"] for item in inherited}
    shown = next(item for item in inherited if item["principalId"] == outer)
    assert shown["scope"].lower() == control_plane.group_id(group).lower()
    assert shown["principalName"]
    assert control_plane.of(member).expect(200, "GET", registry.id, "2025-11-01")["name"] == registry.name
    az.run("ad", "group", "member", "remove", "--group", inner, "--member-id", member.object_id)
    assert control_plane.of(member).request("GET", registry.id, "2025-11-01").status_code == 403
    assert held("--all", "--include-groups") == [direct]


def test_a_condition_travels_with_its_assignment(az, control_plane, registry):
    member = control_plane.new_principal()
    create = [
        "role", "assignment", "create", "--assignee-object-id", member.object_id,
        "--assignee-principal-type", "ServicePrincipal", "--role", "Container Registry Repository Reader",
        "--scope", registry.id, "--condition-version", "2.0", "--condition",
    ]  # fmt: skip
    created = az.json(*create, CONDITION)
    assert (created["condition"], created["conditionVersion"]) == (CONDITION, "2.0")
    other = CONDITION.replace("backend/", "frontend/")
    updated = az.json("role", "assignment", "update", "--role-assignment", json.dumps(created | {"condition": other}))
    assert updated["condition"] == other
    assert "InvalidCondition" in az.fails(*create, "@Resource[x] StringEquals 'y'")
    (shown,) = az.json("role", "assignment", "list", "--scope", registry.id, "--assignee", member.client_id)
    assert shown["condition"] == other


def test_a_registry_shows_which_rights_count(az, group):
    name = fresh_name()
    created = az.json(
        "acr", "create", "--name", name, "--resource-group", group, "--sku", "Basic", "--role-assignment-mode", "rbac-abac"
    )  # fmt: skip
    assert created["roleAssignmentMode"] == "AbacRepositoryPermissions"
    az.run("acr", "update", "--name", name, "--admin-enabled", "true")
    assert az.json("acr", "show", "--name", name)["roleAssignmentMode"] == "AbacRepositoryPermissions"
    az.run("acr", "update", "--name", name, "--role-assignment-mode", "rbac")
    assert az.json("acr", "show", "--name", name)["roleAssignmentMode"] == "LegacyRegistryPermissions"


def test_the_last_owner_of_the_subscription_stays(az, control_plane):
    owners = az.json("role", "assignment", "list", "--role", "Owner", "--scope", control_plane.subscription)
    assert len(owners) == 1
    assert "last RBAC admin" in az.fails("role", "assignment", "delete", "--ids", owners[0]["id"])


def test_the_operations_of_providers_are_listed(az):
    shown = az.json("provider", "operation", "show", "--namespace", "Microsoft.ContainerRegistry")
    operations = {item["name"]: item for kind in shown["resourceTypes"] for item in kind["operations"]}
    assert operations["Microsoft.ContainerRegistry/registries/push/write"]["isDataAction"] is False
    assert operations["Microsoft.ContainerRegistry/registries/repositories/content/write"]["isDataAction"] is True
    listed = az.json("provider", "operation", "list")
    assert "Microsoft.Authorization" in [provider["name"] for provider in listed]
