"""What az sets on a registry beside who may use it: pulling without a login, retention, and how much it stores and may store."""

import json

import pytest
from azure.containerregistry import ContainerRegistryClient
from azure.core.exceptions import ClientAuthenticationError

from harness.control_plane import REGISTRIES, Registry
from harness.images import Image
from harness.names import fresh_name, make_resolvable
from harness.nodes import run
from harness.registry import RegistryClient
from harness.waiting import wait_until


@pytest.fixture
def new_registry(az, control_plane, ready, group):
    """Makes a registry with `az acr create`; gives it, and a client of its admin account."""

    def make(sku, *options):
        resource = az.json(
            "acr", "create", "--name", fresh_name(), "--resource-group", group, "--sku", sku,
            "--admin-enabled", "true", *options,
        )  # fmt: skip
        make_resolvable(resource["loginServer"].partition(":")[0])
        registry = Registry(resource | {"properties": resource})
        password = control_plane.admin_passwords(registry)["password"]
        return registry, RegistryClient(registry.login_server, ready["ca_file"], registry.name, password)

    return make


def test_an_open_registry_is_pulled_by_docker_without_a_login_until_it_is_closed(az, docker, new_registry, busybox):
    registry, admin = new_registry("Standard")
    open_ = f"{registry.login_server}/app:v1"
    docker.import_image(busybox, open_, "hello")
    docker.login(registry.login_server, admin.user, admin.password)
    docker.push(open_)
    docker.run("logout", registry.login_server)
    docker.fails("pull", open_)

    def switch(on):
        return az.json("acr", "update", "--name", registry.name, "--anonymous-pull-enabled", on)

    assert switch("true")["anonymousPullEnabled"] is True
    docker.run("pull", open_)
    assert "denied" in docker.fails("push", open_)
    token = RegistryClient(registry.login_server, admin.session.verify).token("repository:app:pull")
    assert admin.get_manifest("app", "v1", token).status_code == 200
    switch("false")
    assert admin.get_manifest("app", "v1", token).status_code == 401
    docker.fails("pull", open_)


def test_the_sdk_reads_an_open_registry_without_credentials(control_plane, ready, new_registry, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ready["ca_file"])
    registry, admin = new_registry("Standard")
    image = Image("open")
    admin.push_image("team/app", "v1", image)
    control_plane.expect(
        200, "PATCH", registry.id, REGISTRIES, json={"properties": {"anonymousPullEnabled": True}}
    )  # fmt: skip
    client = ContainerRegistryClient(f"https://{registry.login_server}", audience=ready["control_plane"])
    assert list(client.list_repository_names()) == ["team/app"]
    assert client.get_repository_properties("team/app").tag_count == 1
    assert [tag.name for tag in client.list_tag_properties("team/app")] == ["v1"]
    assert client.get_manifest("team/app", "v1").digest == image.digest
    with pytest.raises(ClientAuthenticationError):
        client.delete_tag("team/app", "v1")
    with pytest.raises(ClientAuthenticationError):
        client.update_repository_properties("team/app", can_list=False)


def test_retention_is_set_by_az_and_our_own_rules_by_its_generic_command(az, control_plane, new_registry):
    registry, _ = new_registry("Premium")
    policy = ("acr", "config", "retention")
    update = (*policy, "update", "--registry", registry.name, "--type", "UntaggedManifests")
    az.json(*update, "--status", "Enabled", "--days", "30")
    az.json("resource", "update", "--ids", registry.id, "--set", "properties.policies.retentionPolicy.keepNewest=5")
    shown = az.json(*policy, "show", "--registry", registry.name)
    assert (shown["status"], shown["days"]) == ("enabled", 30)
    # az does not know it, and leaves it as it is.
    az.json(*update, "--days", "14")
    resource = control_plane.expect(200, "GET", registry.id, REGISTRIES)
    rules = resource["properties"]["policies"]["retentionPolicy"]
    assert (rules["days"], rules["keepNewest"]) == (14, 5)


def test_usage_is_shown_and_a_full_registry_takes_nothing_more(az, installation, new_registry):
    registry, admin = new_registry("Standard")
    image = Image("x" * 5000)
    admin.push_image("app", "v1", image)
    pushed = sum(map(len, image.blobs())) + len(image.manifest)

    def limit(value):
        done = run(
            "admin", "storage-limit", "set", value, "--sku", "Standard",
            "--database-url", installation.ready["database_url"],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def size():
        usages = az.json("acr", "show-usage", "--name", registry.name)["value"]
        return next(usage for usage in usages if usage["name"] == "Size")

    shown = wait_until(lambda: (found := size())["currentValue"] > 0 and found, "bytes that a node told of", 40)
    assert (shown["currentValue"], shown["limit"], shown["unit"]) == (pushed, -1, "Bytes")
    try:
        limit("100")
        start = "/v2/app/blobs/uploads/"
        refused = wait_until(
            lambda: (answer := admin.request("POST", start)).status_code == 403 and answer.text,
            "a node that knows the limit",
        )
        error = json.loads(refused)["errors"][0]
        assert error["code"] == "DENIED"
        assert f"stores {pushed} bytes of the 100" in error["message"]
        assert admin.pulls("app", "v1")
        assert size()["limit"] == 100
    finally:
        limit("none")
    wait_until(lambda: admin.request("POST", start).status_code == 202, "a node that knows that there is no limit")
