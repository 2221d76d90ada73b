"""The main path, typed: from an empty machine to `docker push`, by the unmodified Azure CLI and a real docker."""

import pytest

from harness.docker import Docker
from harness.evidence import EVIDENCE
from harness.names import fresh_name, make_resolvable
from harness.registry import RegistryClient

REPOSITORY = "team/app"


class Typed:
    """What the typed commands of a test have to go on."""

    def __init__(self, az, ready, group):
        self.az = az
        self.ready = ready
        self.group = group

    def create_registry(self, admin=True):
        """`az acr create`, and its login server made known to docker."""
        resource = self.az.json(
            "acr", "create", "--name", fresh_name(), "--resource-group", self.group, "--sku", "Basic",
            "--admin-enabled", str(admin).lower(),
        )  # fmt: skip
        make_resolvable(resource["loginServer"].partition(":")[0])
        return resource

    def credentials(self, name):
        """`az acr credential show`: user name and passwords by slot."""
        return self._remember(self.az.json("acr", "credential", "show", "--name", name))

    def renew(self, name, slot):
        return self._remember(
            self.az.json("acr", "credential", "renew", "--name", name, "--password-name", slot)
        )  # fmt: skip

    @staticmethod
    def _remember(answer):
        passwords = {entry["name"]: entry["value"] for entry in answer["passwords"]}
        for value in passwords.values():
            EVIDENCE.secret(value, "an admin password")
        return answer["username"], passwords

    def create_for_rbac(self, role=None, scope=None):
        """`az ad sp create-for-rbac`: app id and password."""
        with_role = ["--role", role, "--scopes", scope] if role else []
        answer = self.az.json("ad", "sp", "create-for-rbac", "--name", fresh_name("ci"), *with_role)
        EVIDENCE.secret(answer["password"], "a service principal's secret")
        return answer["appId"], answer["password"]

    def client(self, registry, user, password):
        return RegistryClient(registry["loginServer"], self.ready["ca_file"], user, password)


@pytest.fixture(scope="module")
def typed(az, ready):
    group = fresh_name("typed")
    az.json("group", "create", "--name", group, "--location", "westus")
    return Typed(az, ready, group)


@pytest.fixture(scope="module")
def pushed(typed, daemon, busybox):
    """A registry with one runnable image, pushed by its admin account."""
    registry = typed.create_registry()
    user, passwords = typed.credentials(registry["name"])
    client = Docker(daemon)
    client.login(registry["loginServer"], user, passwords["password"])
    image = f"{registry['loginServer']}/{REPOSITORY}:v1"
    client.import_image(busybox, image, f"hello from {registry['name']}")
    client.push(image)
    return registry, image


def assert_pushes(docker, server, user, password, busybox):
    """Logs in and pushes an image nobody pushed before."""
    docker.login(server, user, password)
    image = f"{server}/{fresh_name('repository')}:v1"
    docker.import_image(busybox, image, image)
    docker.push(image)


def test_two_commands_and_a_login_are_all_the_configuration_there_is(ready, fresh_cli):
    cli = fresh_cli()
    cli.run("cloud", "register", "--name", "mine", "--endpoint-resource-manager", ready["control_plane"])
    cli.run("cloud", "set", "--name", "mine")
    subscriptions = cli.json(
        "login", "--service-principal", "--username", ready["client_id"], "--password", ready["client_secret"],
        "--tenant", ready["tenant_id"],
    )  # fmt: skip
    assert [entry["id"] for entry in subscriptions] == [ready["subscription_id"]]
    account = cli.json("account", "show")
    assert account["tenantId"] == ready["tenant_id"]
    assert account["state"] == "Enabled"
    assert account["user"] == {"name": ready["client_id"], "type": "servicePrincipal"}


def test_login_with_a_wrong_secret_says_so(ready, fresh_cli):
    cli = fresh_cli()
    cli.register_cloud(ready["control_plane"])
    refusal = cli.fails(
        "login", "--service-principal", "--username", ready["client_id"], "--password", "no-such-secret-at-all",
        "--tenant", ready["tenant_id"],
    )  # fmt: skip
    assert "AADSTS7000215" in refusal
    assert "Traceback" not in refusal


def test_group_create_show_list_update_exists_delete(az):
    name = fresh_name("group")
    created = az.json("group", "create", "--name", name, "--location", "westus", "--tags", "team=red")
    assert (created["name"], created["location"], created["tags"]) == (name, "westus", {"team": "red"})
    assert created["properties"]["provisioningState"] == "Succeeded"
    assert az.json("group", "show", "--name", name) == created
    assert name in [entry["name"] for entry in az.json("group", "list")]
    updated = az.json("group", "update", "--name", name, "--set", "tags.cost=low")
    assert updated["tags"] == {"team": "red", "cost": "low"}
    assert az.json("group", "exists", "--name", name.upper()) is True
    az.run("group", "delete", "--name", name, "--yes")
    assert az.json("group", "exists", "--name", name) is False
    missing = az.run("group", "show", "--name", name, exit_code=3)
    assert "ResourceGroupNotFound" in missing.stderr


def test_locations_and_providers_are_what_az_expects(az):
    locations = az.json("account", "list-locations")
    assert [entry["name"] for entry in locations] == ["westus"]
    provider = az.json("provider", "show", "--namespace", "Microsoft.ContainerRegistry")
    assert provider["registrationState"] == "Registered"
    types = {entry["resourceType"]: entry for entry in provider["resourceTypes"]}
    assert "2025-11-01" in types["registries"]["apiVersions"]
    az.run("provider", "register", "--namespace", "Microsoft.ContainerRegistry")
    assert "Microsoft.ContainerRegistry" in [entry["namespace"] for entry in az.json("provider", "list")]


def test_check_name_tells_free_from_taken(az, typed):
    name = fresh_name()
    assert az.json("acr", "check-name", "--name", name)["nameAvailable"] is True
    typed.az.json("acr", "create", "--name", name, "--resource-group", typed.group, "--sku", "Basic")
    taken = az.json("acr", "check-name", "--name", name.upper())
    assert taken["nameAvailable"] is False
    assert taken["reason"] == "AlreadyExists"


def test_create_shows_the_registry_and_show_finds_it_by_name(az, typed, ready):
    created = typed.create_registry()
    assert created["loginServer"] == f"{created['name']}{ready['login_server_suffix']}"
    assert created["provisioningState"] == "Succeeded"
    assert created["adminUserEnabled"] is True
    assert created["sku"] == {"name": "Basic", "tier": "Basic"}
    assert created["resourceGroup"] == typed.group
    shown = az.json("acr", "show", "--name", created["name"].upper())
    assert shown == created
    again = az.json(
        "acr", "create", "--name", created["name"], "--resource-group", typed.group, "--sku", "Basic",
        "--admin-enabled", "true",
    )  # fmt: skip
    assert again["creationDate"] == created["creationDate"], "creating it again leaves it as it is"


def test_a_name_that_is_taken_is_refused_in_another_group(az, typed):
    taken = typed.create_registry(admin=False)["name"]
    other = fresh_name("group")
    az.json("group", "create", "--name", other, "--location", "westus")
    refusal = az.fails("acr", "create", "--name", taken, "--resource-group", other, "--sku", "Basic")
    assert "AlreadyInUse" in refusal
    assert taken in refusal


def test_credential_show_says_how_to_turn_the_admin_account_on(az, typed):
    registry = typed.create_registry(admin=False)
    refusal = az.fails("acr", "credential", "show", "--name", registry["name"])
    assert "admin-enabled true" in refusal


def test_what_one_daemon_pushes_another_pulls_and_runs(typed, pushed, second_docker):
    registry, image = pushed
    user, passwords = typed.credentials(registry["name"])
    second_docker.fails("image", "inspect", image)
    second_docker.login(registry["loginServer"], user, passwords["password2"])
    second_docker.run("pull", image)
    printed = second_docker.run("run", "--rm", "--network=none", image).stdout
    assert printed == f"hello from {registry['name']}\n"


def test_a_renewed_password_is_refused_at_once_with_all_that_came_from_it(typed, docker):
    registry = typed.create_registry()
    server = registry["loginServer"]
    user, before = typed.credentials(registry["name"])
    old = typed.client(registry, user, before["password"])
    token = old.token(f"repository:{REPOSITORY}:pull,push")
    assert old.request("GET", "/v2/", token=token).status_code == 200

    renewed_user, after = typed.renew(registry["name"], "password")
    assert renewed_user == user
    assert after["password"] != before["password"]
    assert after["password2"] == before["password2"]

    assert old.login_status() == 401
    assert old.token_response().status_code == 401
    assert old.request("GET", "/v2/", token=token).status_code == 401
    docker.login_fails(server, user, before["password"])
    docker.login(server, user, before["password2"])
    docker.login(server, user, after["password"])


def test_turning_the_admin_account_off_refuses_both_passwords(az, typed, docker):
    registry = typed.create_registry()
    user, passwords = typed.credentials(registry["name"])
    clients = [typed.client(registry, user, password) for password in passwords.values()]
    token = clients[0].token()
    updated = az.json("acr", "update", "--name", registry["name"], "--admin-enabled", "false")
    assert updated["adminUserEnabled"] is False
    assert [client.login_status() for client in clients] == [401, 401]
    assert clients[0].request("GET", "/v2/", token=token).status_code == 401
    for password in passwords.values():
        docker.login_fails(registry["loginServer"], user, password)


def test_a_contributor_made_by_create_for_rbac_pushes(typed, pushed, docker, busybox):
    registry, _ = pushed
    user, password = typed.create_for_rbac("Contributor", registry["id"])
    assert_pushes(docker, registry["loginServer"], user, password, busybox)


def test_a_reader_pulls_and_a_push_is_denied(az, typed, pushed, docker, busybox):
    registry, image = pushed
    user, password = typed.create_for_rbac()
    docker.login_fails(registry["loginServer"], user, password)
    az.json("role", "assignment", "create", "--assignee", user, "--role", "Reader", "--scope", registry["id"])
    docker.login(registry["loginServer"], user, password)
    docker.run("pull", image)
    own = f"{registry['loginServer']}/{REPOSITORY}:mine"
    docker.import_image(busybox, own, "not for this registry")
    assert "denied" in docker.fails("push", own)
    tags = typed.client(registry, user, password).expect(200, "GET", f"/v2/{REPOSITORY}/tags/list").json()
    assert tags == {"name": REPOSITORY, "tags": ["v1"]}


def test_an_owner_logs_in_and_assigns_a_role_to_a_third(typed, cli_of, docker, busybox):
    registry = typed.create_registry(admin=False)
    owner = cli_of(*typed.create_for_rbac("Owner", registry["id"]))
    third, password = typed.create_for_rbac("Reader", registry["id"])
    docker.login(registry["loginServer"], third, password)
    image = f"{registry['loginServer']}/{REPOSITORY}:v1"
    docker.import_image(busybox, image, "third")
    assert "denied" in docker.fails("push", image)
    owner.json("role", "assignment", "create", "--assignee", third, "--role", "AcrPush", "--scope", registry["id"])
    docker.push(image)


def test_a_contributor_cannot_assign_roles(typed, cli_of):
    registry = typed.create_registry(admin=False)
    user, password = typed.create_for_rbac("Contributor", registry["id"])
    contributor = cli_of(user, password)
    refusal = contributor.fails(
        "role", "assignment", "create", "--assignee", user, "--role", "Owner", "--scope", registry["id"]
    )  # fmt: skip
    assert "AuthorizationFailed" in refusal
    assert "Microsoft.Authorization/roleAssignments/write" in refusal


def test_deleting_a_role_assignment_refuses_at_once_tokens_too(az, typed, docker):
    registry = typed.create_registry(admin=False)
    user, password = typed.create_for_rbac("AcrPush", registry["id"])
    client = typed.client(registry, user, password)
    token = client.token(f"repository:{REPOSITORY}:pull,push")
    client.expect(202, "POST", f"/v2/{REPOSITORY}/blobs/uploads/", token=token)
    az.run("role", "assignment", "delete", "--assignee", user, "--role", "AcrPush", "--scope", registry["id"])
    assert client.login_status() == 401
    assert client.request("POST", f"/v2/{REPOSITORY}/blobs/uploads/", token=token).status_code == 401
    docker.login_fails(registry["loginServer"], user, password)
    remaining = az.json("role", "assignment", "list", "--assignee", user, "--scope", registry["id"])
    assert remaining == []


@pytest.mark.parametrize("level", ["resource group", "subscription"])
@pytest.mark.parametrize("case", ["as it was given", "in another case"])
def test_a_role_at_a_wider_scope_reaches_the_registry(typed, pushed, docker, busybox, ready, level, case):
    registry, _ = pushed
    scope = f"/subscriptions/{ready['subscription_id']}"
    if level == "resource group":
        scope = f"{scope}/resourceGroups/{typed.group}"
    if case == "in another case":
        scope = scope.upper().replace("/SUBSCRIPTIONS/", "/Subscriptions/").replace("RESOURCEGROUPS", "resourcegroups")
    user, password = typed.create_for_rbac("acrPUSH", scope)
    assert_pushes(docker, registry["loginServer"], user, password, busybox)


def test_another_registry_refuses_the_users_of_the_first(typed, pushed, docker):
    first, _ = pushed
    second = typed.create_registry()
    user, password = typed.create_for_rbac("AcrPush", first["id"])
    _, passwords = typed.credentials(first["name"])
    docker.login(first["loginServer"], user, password)
    docker.login_fails(second["loginServer"], user, password)
    docker.login_fails(second["loginServer"], first["name"], passwords["password"])
    token = typed.client(first, user, password).token(f"repository:{REPOSITORY}:pull")
    assert typed.client(second, None, None).request("GET", "/v2/", token=token).status_code == 401


def test_list_and_show_print_tables(az, typed):
    registry = typed.create_registry()
    for command in (["acr", "list"], ["acr", "show", "--name", registry["name"]]):
        table = az.run(*command, "--output", "table").stdout.splitlines()
        assert table[0].split()[:5] == ["NAME", "RESOURCE", "GROUP", "LOCATION", "SKU"]
        row = next(line for line in table if line.startswith(f"{registry['name']} "))
        assert row.split()[:5] == [registry["name"], typed.group, "westus", "Basic", registry["loginServer"]]


def test_a_list_shows_only_what_the_caller_may_read(typed, cli_of):
    mine, other = typed.create_registry(admin=False), typed.create_registry(admin=False)
    reader = cli_of(*typed.create_for_rbac("Reader", mine["id"]))
    assert [entry["name"] for entry in reader.json("acr", "list")] == [mine["name"]]
    assert "could not be found" in reader.fails("acr", "show", "--name", other["name"])
    refusal = reader.fails("acr", "show", "--name", other["name"], "--resource-group", typed.group)
    assert "AuthorizationFailed" in refusal


def test_a_deleted_registry_refuses_its_users_and_comes_back_empty(az, typed, docker, busybox):
    registry = typed.create_registry()
    user, passwords = typed.credentials(registry["name"])
    assert_pushes(docker, registry["loginServer"], user, passwords["password"], busybox)
    principal, secret = typed.create_for_rbac("AcrPush", registry["id"])
    az.run("acr", "delete", "--name", registry["name"], "--yes")
    docker.login_fails(registry["loginServer"], user, passwords["password"])
    missing = az.run("acr", "show", "--name", registry["name"], "--resource-group", typed.group, exit_code=3)
    assert "ResourceNotFound" in missing.stderr

    again = az.json(
        "acr", "create", "--name", registry["name"], "--resource-group", typed.group, "--sku", "Basic",
        "--admin-enabled", "true",
    )  # fmt: skip
    docker.login_fails(registry["loginServer"], user, passwords["password"])
    docker.login_fails(registry["loginServer"], principal, secret)
    user, passwords = typed.credentials(again["name"])
    catalog = typed.client(again, user, passwords["password"]).expect(200, "GET", "/v2/_catalog").json()
    assert catalog == {"repositories": []}


def test_deleting_a_group_deletes_everything_in_it(az, typed, docker):
    group = fresh_name("doomed")
    az.json("group", "create", "--name", group, "--location", "westus")
    typed = Typed(az, typed.ready, group)
    registry = typed.create_registry()
    user, passwords = typed.credentials(registry["name"])
    principal, secret = typed.create_for_rbac("AcrPush", f"{registry['id'].partition('/providers/')[0]}")
    docker.login(registry["loginServer"], principal, secret)
    az.run("group", "delete", "--name", group, "--yes")
    docker.login_fails(registry["loginServer"], user, passwords["password"])
    assert registry["name"] not in [entry["name"] for entry in az.json("acr", "list")]
    az.json("group", "create", "--name", group, "--location", "westus")
    again = typed.create_registry()
    docker.login_fails(again["loginServer"], principal, secret)


def test_directory_list_show_delete(az, typed, pushed, docker):
    registry, _ = pushed
    user, password = typed.create_for_rbac("Reader", registry["id"])
    shown = az.json("ad", "sp", "show", "--id", user)
    assert shown["appId"] == user
    assert user in [entry["appId"] for entry in az.json("ad", "sp", "list", "--all")]
    found = az.json("ad", "sp", "list", "--display-name", shown["displayName"])
    assert [entry["id"] for entry in found] == [shown["id"]]
    docker.login(registry["loginServer"], user, password)
    az.run("ad", "sp", "delete", "--id", user)
    docker.login_fails(registry["loginServer"], user, password)
    az.fails("ad", "sp", "show", "--id", user)


def test_a_reset_credential_replaces_the_old_one(az, typed, pushed, docker):
    registry, _ = pushed
    user, password = typed.create_for_rbac("Reader", registry["id"])
    first = az.json("ad", "sp", "credential", "reset", "--id", user)
    EVIDENCE.secret(first["password"], "a service principal's secret")
    docker.login(registry["loginServer"], user, first["password"])
    second = az.json("ad", "sp", "credential", "reset", "--id", user)
    EVIDENCE.secret(second["password"], "a service principal's secret")
    docker.login(registry["loginServer"], user, second["password"])
    docker.login_fails(registry["loginServer"], user, first["password"])
    assert password not in (first["password"], second["password"])


def test_create_for_rbac_again_patches_the_application(az, typed, pushed):
    registry, _ = pushed
    name = fresh_name("ci")
    command = ["ad", "sp", "create-for-rbac", "--name", name, "--role", "Reader", "--scopes", registry["id"]]
    first = az.json(*command)
    EVIDENCE.secret(first["password"], "a service principal's secret")
    second = az.json(*command)
    EVIDENCE.secret(second["password"], "a service principal's secret")
    assert second["appId"] == first["appId"]
    assert typed.client(registry, first["appId"], second["password"]).login_status() == 200
    assert typed.client(registry, first["appId"], first["password"]).login_status() == 401


def test_a_secret_cannot_be_added_to_a_principal_of_somebody_else(typed, pushed, cli_of):
    registry, _ = pushed
    victim, _ = typed.create_for_rbac("Owner", registry["id"])
    attacker = cli_of(*typed.create_for_rbac("Owner", registry["id"]))
    refusal = attacker.fails("ad", "sp", "credential", "reset", "--id", victim, "--append")
    assert "Insufficient privileges" in refusal or "Forbidden" in refusal or "Authorization_RequestDenied" in refusal


def test_metadata_in_list_form_makes_registering_a_cloud_unnecessary(ready, fresh_cli):
    cli = fresh_cli(
        ARM_CLOUD_METADATA_URL=f"{ready['control_plane']}/metadata/endpoints?api-version=2019-05-01",
        # The CLI fetches this one document by Python's own means, which know no REQUESTS_CA_BUNDLE.
        SSL_CERT_FILE=ready["ca_file"],
    )
    cli.login(ready["client_id"], ready["client_secret"], ready["tenant_id"])
    assert cli.json("cloud", "show")["endpoints"]["resourceManager"].rstrip("/") == ready["control_plane"].rstrip("/")
    assert isinstance(cli.json("group", "list"), list)


def test_rest_reads_through_the_cli(az, pushed):
    registry, _ = pushed
    answer = az.json("rest", "--method", "get", "--url", f"{registry['id']}?api-version=2023-07-01")
    assert answer["properties"]["loginServer"] == registry["loginServer"]


def test_role_definitions_list_names_the_registry_roles(az):
    definitions = {entry["roleName"]: entry for entry in az.json("role", "definition", "list")}
    assert {"Owner", "Contributor", "Reader", "AcrPull", "AcrPush", "AcrDelete"} <= set(definitions)
    assert [entry["roleName"] for entry in az.json("role", "definition", "list", "--name", "AcrPush")] == ["AcrPush"]


def test_a_resource_is_found_by_the_generic_commands(az, pushed):
    registry, _ = pushed
    listed = az.json("resource", "list", "--resource-type", "Microsoft.ContainerRegistry/registries")
    assert registry["name"] in [entry["name"] for entry in listed]
    assert az.json("resource", "show", "--ids", registry["id"])["name"] == registry["name"]
