"""Random worlds of groups, roles and assignments: the control plane, a node and a plain definition of access must agree on each right."""

import base64
import json
import random
import re
import uuid

import pytest

from harness.control_plane import ASSIGNMENTS, DEFINITIONS, GROUPS, REGISTRIES, ROLES, Registry
from harness.names import fresh_name, make_resolvable
from harness.registry import RegistryClient

REGISTRY = "Microsoft.ContainerRegistry/registries"
CONTENT = f"{REGISTRY}/repositories"
REPOSITORIES = ("app", "apple", "app/web", "other")
# What is asked for at a node, with the action of each mode.
RIGHTS = {
    "pull": (f"{REGISTRY}/pull/read", f"{CONTENT}/content/read"),
    "push": (f"{REGISTRY}/push/write", f"{CONTENT}/content/write"),
    "delete": (f"{REGISTRY}/artifacts/delete", f"{CONTENT}/content/delete"),
    "metadata_read": (f"{REGISTRY}/metadata/read", f"{CONTENT}/metadata/read"),
    "metadata_write": (f"{REGISTRY}/metadata/write", f"{CONTENT}/metadata/write"),
}
CATALOG = (f"{REGISTRY}/read", f"{REGISTRY}/catalog/read")
ACTIONS = ("*", "*/read", f"{REGISTRY}/*", f"{REGISTRY}/pull/read", f"{REGISTRY}/p*", "*/WRITE", f"{REGISTRY}/read")
DATA_ACTIONS = (f"{CONTENT}/*", f"{CONTENT}/content/read", "*/read", "*/Write", f"{REGISTRY}/catalog/read")
BUILT_IN = ("Owner", "Contributor", "Reader", "AcrPull", "AcrPush", "AcrDelete")
COMPARISONS = (("Equals", "APP"), ("StartsWith", "app"), ("StartsWith", "app/"), ("Equals", "other"))


def matches(pattern, action):
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(expression, action, re.IGNORECASE | re.DOTALL) is not None


def allows(permissions, action, is_data):
    allowed, denied = ("dataActions", "notDataActions") if is_data else ("actions", "notActions")
    named = lambda member: any(matches(p, action) for entry in permissions for p in entry[member])  # noqa: E731
    return named(allowed) and not named(denied)


def holds(restriction, action, repository):
    if restriction is None:
        return True
    actions, comparisons = restriction
    if not any(matches(f"{CONTENT}/{named}", action) for named in actions):
        return True
    if repository is None:
        return False
    name = repository.lower()
    return any(
        name == value.lower() if operator == "Equals" else name.startswith(value.lower())
        for operator, value in comparisons
    )


def condition(restriction):
    actions, comparisons = restriction
    guard = " AND ".join(f"!(ActionMatches{{'{CONTENT}/{action}'}})" for action in actions)
    names = " OR ".join(
        f"@Request[{CONTENT}:name] String{operator}IgnoreCase '{value}'" for operator, value in comparisons
    )
    return f"(({guard}) OR ({names}))"


class World:
    """Two registries, one of each mode, and everything that gives rights in them."""

    def __init__(self, control_plane, seed):
        self.control_plane, self.random = control_plane, random.Random(seed)
        self.resource_group = control_plane.new_group()
        self.registries = [self.new_registry(is_abac) for is_abac in (False, True)]
        self.principals = [control_plane.new_principal() for _ in range(3)]
        self.groups = [self.new_group() for _ in range(4)]
        self.memberships, self.assignments = set(), []
        self.permissions = {name: self.permissions_of(name) for name in self.role_names()}
        for _ in range(8):
            self.add_membership()
        for _ in range(7):
            self.add_assignment()

    def new_registry(self, is_abac):
        mode = "AbacRepositoryPermissions" if is_abac else "LegacyRegistryPermissions"
        path = self.control_plane.registry_id(self.resource_group, fresh_name())
        body = {"location": "westus", "sku": {"name": "Standard"}, "properties": {"roleAssignmentMode": mode}}
        resource = self.control_plane.expect((200, 201), "PUT", path, REGISTRIES, json=body)
        make_resolvable(resource["properties"]["loginServer"].partition(":")[0])
        return Registry(resource)

    def new_group(self):
        name = fresh_name("team")
        body = {"displayName": name, "mailNickname": name, "mailEnabled": False, "securityEnabled": True}
        return self.control_plane.expect(201, "POST", "/v1.0/groups", json=body)["id"]

    def role_names(self):
        """Built-in ones, and three of this world's own."""
        custom = []
        for _ in range(3):
            name = str(uuid.uuid4())
            pick = lambda patterns, most: self.random.sample(patterns, self.random.randint(0, most))  # noqa: E731
            permission = {
                "actions": pick(ACTIONS, 2),
                "notActions": pick(ACTIONS[3:], 1),
                "dataActions": pick(DATA_ACTIONS, 2),
                "notDataActions": pick(DATA_ACTIONS, 1),
            }
            properties = {
                "roleName": f"World {name}",
                "type": "CustomRole",
                "permissions": [permission],
                "assignableScopes": [self.control_plane.subscription],
            }
            self.control_plane.expect(201, "PUT", self.role_id(name), DEFINITIONS, json={"properties": properties})
            custom.append(name)
        return [ROLES[name] for name in BUILT_IN] + custom

    def role_id(self, name):
        return f"{self.control_plane.subscription}/providers/Microsoft.Authorization/roleDefinitions/{name}"

    def permissions_of(self, name):
        role = self.control_plane.expect(200, "GET", self.role_id(name), DEFINITIONS)
        return role["properties"]["permissions"]

    def members(self):
        return [principal.object_id for principal in self.principals] + self.groups

    def add_membership(self):
        member, group = self.random.choice(self.members()), self.random.choice(self.groups)
        if member == group or (member, group) in self.memberships:
            return
        self.memberships.add((member, group))
        reference = {"@odata.id": f"{self.control_plane.url}/v1.0/directoryObjects/{member}"}
        self.control_plane.expect(204, "POST", f"/v1.0/groups/{group}/members/$ref", json=reference)

    def scopes(self):
        return [self.control_plane.group_id(self.resource_group)] + [registry.id for registry in self.registries] * 2

    def add_assignment(self):
        holder, scope = self.random.choice(self.members()), self.random.choice(self.scopes())
        role = self.random.choice(list(self.permissions))
        if any((holder, scope, role) == known[:3] for known in self.assignments):
            return
        restriction = None
        if self.random.random() < 0.5:
            actions = self.random.sample(("content/read", "content/*", "metadata/read"), self.random.randint(1, 2))
            # One that speaks of nothing in the role is refused.
            data_actions = [action for _, action in RIGHTS.values()]
            named = [a for a in data_actions if any(matches(f"{CONTENT}/{pattern}", a) for pattern in actions)]
            if any(allows(self.permissions[role], action, True) for action in named):
                restriction = (actions, self.random.sample(COMPARISONS, self.random.randint(1, 2)))
        properties = {"roleDefinitionId": self.role_id(role), "principalId": holder}
        if restriction:
            properties |= {"condition": condition(restriction), "conditionVersion": "2.0"}
        path = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        self.control_plane.expect(201, "PUT", path, ASSIGNMENTS, json={"properties": properties})
        self.assignments.append((holder, scope, role, restriction))

    # What follows from it

    def reached(self, start):
        reached = {start}
        while True:
            more = {group for member, group in self.memberships if member in reached} | reached
            if more == reached:
                return reached
            reached = more

    def applying(self, principal, registry):
        """Roles with their restrictions that count for a principal in a registry."""
        holders = self.reached(principal.object_id)
        above = registry.id.lower() + "/"
        return [
            (self.permissions[role], restriction)
            for holder, scope, role, restriction in self.assignments
            if holder in holders and above.startswith(scope.lower() + "/")
        ]

    def expected(self, principal, registry, is_abac):
        """Scopes of the token that the principal should get."""
        applying = self.applying(principal, registry)

        def may(actions, repository):
            action = actions[is_abac]
            return any(
                allows(permissions, action, is_abac)
                and (holds(restriction, action, repository) if is_abac else restriction is None)
                for permissions, restriction in applying
            )

        granted = {(name, right) for name in REPOSITORIES for right in RIGHTS if may(RIGHTS[right], name)}
        return granted | ({("catalog", "*")} if may(CATALOG, None) else set())

    def granted_by_node(self, principal, registry):
        client = RegistryClient(
            registry.login_server, self.control_plane.ready["ca_file"], principal.client_id, principal.client_secret
        )
        asked = [f"repository:{name}:{','.join(RIGHTS)}" for name in REPOSITORIES] + ["registry:catalog:*"]
        answer = client.token_response(*asked)
        if answer.status_code == 401:
            assert client.login_status() == 401
            return set()
        assert answer.status_code == 200, answer.text
        access = claims_of(answer.json()["access_token"])["access"]
        return {(entry["name"], action) for entry in access for action in entry["actions"]}

    def permissions_by_control_plane(self, principal, registry):
        path = f"{registry.id}/providers/Microsoft.Authorization/permissions"
        return self.control_plane.of(principal).expect(200, "GET", path, DEFINITIONS)["value"]


def claims_of(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


@pytest.mark.parametrize("seed", range(25))
def test_both_planes_and_the_definition_agree(control_plane, seed):
    world = World(control_plane, seed)
    for principal in world.principals:
        for registry, is_abac in zip(world.registries, (False, True)):
            expected = world.expected(principal, registry, is_abac)
            assert world.granted_by_node(principal, registry) == expected, (seed, registry.name, world.assignments)
            # Each entry is one permission of one role, less its own exceptions.
            shown = world.permissions_by_control_plane(principal, registry)
            applying = [permissions for permissions, _ in world.applying(principal, registry)]
            for actions in [*RIGHTS.values(), CATALOG]:
                for is_data, action in enumerate(actions):
                    found = any(allows([entry], action, bool(is_data)) for entry in shown)
                    assert found == any(allows(entry, action, bool(is_data)) for entry in applying), (seed, action)
            # What the control plane does itself by the same right: reading the registry.
            status = control_plane.of(principal).request("GET", registry.id, REGISTRIES).status_code
            may_read = any(allows(permissions, CATALOG[0], False) for permissions in applying)
            assert status == (200 if may_read else 403)
    # Nothing is left that the next world could trip over.
    control_plane.expect((200, 202, 204), "DELETE", control_plane.group_id(world.resource_group), GROUPS)
