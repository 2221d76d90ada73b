"""Clients beside az and docker: the Python SDKs in the tenant form of sign-in, skopeo with a verified certificate."""

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.containerregistry import ContainerRegistryManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient

from harness.control_plane import remember_passwords
from harness.docker import run_program
from harness.evidence import EVIDENCE
from harness.images import Image
from harness.names import fresh_name


@pytest.fixture
def sdk_of(ready, monkeypatch):
    """Makes makers of SDK clients that sign in with `/<tenant>/oauth2/v2.0/token`."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ready["ca_file"])
    url = ready["control_plane"].rstrip("/")

    def of(client_id, client_secret):
        credential = ClientSecretCredential(
            ready["tenant_id"],
            client_id,
            client_secret,
            authority=url,
            disable_instance_discovery=True,
            connection_verify=ready["ca_file"],
        )

        def make(kind):
            return kind(
                credential,
                ready["subscription_id"],
                base_url=url,
                credential_scopes=[f"{url}/.default"],
                connection_verify=ready["ca_file"],
            )

        return make

    return of


@pytest.fixture
def sdk(sdk_of, ready):
    """The same for the first principal."""
    return sdk_of(ready["client_id"], ready["client_secret"])


def test_the_management_sdk_walks_a_registry_through_its_life(sdk):
    groups = sdk(ResourceManagementClient).resource_groups
    registries = sdk(ContainerRegistryManagementClient).registries
    group, name = fresh_name("sdk"), fresh_name()
    groups.create_or_update(group, {"location": "westus"})
    created = registries.begin_create(
        group, name, {"location": "westus", "sku": {"name": "Standard"}, "properties": {"adminUserEnabled": True}}
    ).result()
    assert created.properties.provisioning_state == "Succeeded"
    assert created.sku.tier == "Standard"
    credentials = registries.list_credentials(group, name).as_dict()
    assert credentials["username"] == name
    remember_passwords(credentials)
    updated = registries.begin_update(group, name, {"tags": {"a": "b"}}).result()
    assert dict(updated.tags) == {"a": "b"}
    assert [entry.name for entry in registries.list_by_resource_group(group)] == [name]
    assert name in [entry.name for entry in registries.list()]
    registries.begin_delete(group, name).result()
    with pytest.raises(ResourceNotFoundError):
        registries.get(group, name)
    groups.begin_delete(group).result()
    assert groups.check_existence(group) is False


def test_the_sdk_gets_the_published_error_for_credentials_while_admin_is_off(sdk, control_plane, group):
    registry = control_plane.new_registry(group, admin=False)
    with pytest.raises(HttpResponseError) as refusal:
        sdk(ContainerRegistryManagementClient).registries.list_credentials(group, registry.name)
    assert refusal.value.status_code == 400
    assert refusal.value.error.code == "UnAuthorizedForCredentialOperations"


def test_an_sdk_whose_secret_is_gone_asks_once_for_a_new_token(sdk_of, control_plane, registry):
    principal = control_plane.new_principal_with("Reader", registry.id)
    registries = sdk_of(principal.client_id, principal.client_secret)(ContainerRegistryManagementClient).registries
    assert [entry.name for entry in registries.list()] == [registry.name]
    control_plane.rotate_secret(principal)
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        list(registries.list())


def test_the_authorization_sdk_lists_what_is_assigned(sdk, control_plane, registry):
    principal = control_plane.new_principal_with("AcrPull", registry.id)
    assignments = sdk(AuthorizationManagementClient).role_assignments
    found = [entry for entry in assignments.list_for_scope(registry.id.lstrip("/"), filter="atScope()")]
    mine = [entry for entry in found if entry.principal_id == principal.object_id]
    assert [entry.scope for entry in mine] == [registry.id]
    direct = list(assignments.list_for_subscription(filter=f"principalId eq '{principal.object_id}'"))
    assert [entry.id for entry in direct] == [mine[0].id]


@pytest.fixture
def skopeo(ready, tmp_path):
    """skopeo as a user runs it who trusts the development CA; the certificate is verified."""
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(open(ready["ca_file"], "rb").read())

    def run(command, *arguments, **options):
        directory = {"copy": ["--src-cert-dir", "--dest-cert-dir"]}.get(command, ["--cert-dir"])
        trust = [part for option in directory for part in (option, certificates)]
        return run_program(["skopeo", command, *trust, *arguments], {"HOME": str(tmp_path)}, **options)

    return run


def test_skopeo_copies_in_inspects_and_copies_out(skopeo, control_plane, registry, tmp_path):
    password = control_plane.admin_passwords(registry)["password"]
    credentials = f"{registry.name}:{password}"
    image = Image("first layer", "second layer")
    source = image.write_layout(tmp_path / "source", "v1")
    target = f"docker://{registry.login_server}/tools/app:v1"
    skopeo("copy", "--dest-creds", credentials, source, target)
    inspected = skopeo("inspect", "--creds", credentials, target).stdout
    assert image.digest in inspected
    skopeo("copy", "--src-creds", credentials, target, f"dir:{tmp_path / 'copy'}")
    assert (tmp_path / "copy/manifest.json").read_bytes() == image.manifest
    listed = skopeo("list-tags", "--creds", credentials, target.rpartition(":")[0]).stdout
    assert '"v1"' in listed


def test_skopeo_mounts_a_layer_that_another_repository_has(skopeo, control_plane, registry, tmp_path):
    password = control_plane.admin_passwords(registry)["password"]
    credentials = f"{registry.name}:{password}"
    source = Image("shared layer").write_layout(tmp_path / "source", "v1")
    first = f"docker://{registry.login_server}/one/app:v1"
    second = f"docker://{registry.login_server}/two/app:v1"
    skopeo("copy", "--dest-creds", credentials, source, first)
    both = ["--src-creds", credentials, "--dest-creds", credentials]
    skopeo("copy", *both, first, second)
    skopeo("inspect", "--creds", credentials, second)


def test_skopeo_says_what_is_wrong_with_a_wrong_password(skopeo, registry):
    wrong = EVIDENCE.secret("not-the-password-of-anything", "a password typed wrong")
    outcome = skopeo(
        "inspect", "--creds", f"{registry.name}:{wrong}", f"docker://{registry.login_server}/app:v1", exit_code=None
    )
    assert outcome.exit_code != 0
    assert "unauthorized" in outcome.stderr.lower() or "authentication required" in outcome.stderr.lower()
