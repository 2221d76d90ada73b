"""Clients of a registry's content beside az, docker and skopeo: the SDKs for Python and JavaScript, oras, podman, buildah."""

import io
import json
import os
import subprocess

import oras.client
import pytest
from azure.containerregistry import ArtifactTagOrder, ContainerRegistryClient
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential

from harness.docker import run_program
from harness.evidence import EVIDENCE
from harness.images import LAYER_TYPE, Image, descriptor
from harness.installation import clean_environment

TIMEOUT_SECONDS = 300
NODE_PACKAGES = os.environ.get("WHARFINGER_E2E_NODE")


@pytest.fixture
def principal(control_plane, registry):
    return control_plane.new_principal_with("Contributor", registry.id)


@pytest.fixture
def password(control_plane, registry):
    return control_plane.admin_passwords(registry)["password"]


def test_the_python_sdk_pushes_reads_locks_and_deletes(ready, registry, principal, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ready["ca_file"])
    url = ready["control_plane"].rstrip("/")
    credential = ClientSecretCredential(
        ready["tenant_id"], principal.client_id, principal.client_secret,
        authority=url, disable_instance_discovery=True,
    )  # fmt: skip
    client = ContainerRegistryClient(f"https://{registry.login_server}", credential, audience=url)
    name, image = "team/from-python", Image("from Python")
    for blob in image.blobs():
        client.upload_blob(name, io.BytesIO(blob))
    for tag in ("v1", "v2", "v3"):
        digest = client.set_manifest(name, json.loads(image.manifest), tag=tag)
    layer = descriptor(LAYER_TYPE, image.layers[0])
    assert b"".join(client.download_blob(name, layer["digest"])) == image.layers[0]
    assert client.get_manifest(name, "v2").digest == digest

    assert list(client.list_repository_names()) == [name]
    properties = client.get_repository_properties(name)
    assert (properties.tag_count, properties.manifest_count) == (3, 1)
    manifest = client.get_manifest_properties(name, "v1")
    assert (manifest.architecture, manifest.operating_system) == ("amd64", "linux")
    assert manifest.tags == ["v1", "v2", "v3"]
    assert [entry.digest for entry in client.list_manifest_properties(name)] == [digest]

    def tags(**options):
        return [tag.name for tag in client.list_tag_properties(name, results_per_page=2, **options)]

    assert tags() == tags(order_by=ArtifactTagOrder.LAST_UPDATED_ON_ASCENDING) == ["v1", "v2", "v3"]
    assert tags(order_by=ArtifactTagOrder.LAST_UPDATED_ON_DESCENDING) == ["v3", "v2", "v1"]

    locked = client.update_tag_properties(name, "v1", can_write=False, can_delete=False)
    assert not locked.can_write and not locked.can_delete and locked.can_read
    for deletion in (
        lambda: client.delete_tag(name, "v1"),
        lambda: client.delete_manifest(name, digest),
        lambda: client.delete_repository(name),
    ):
        with pytest.raises(HttpResponseError) as refusal:
            deletion()
        assert refusal.value.status_code == 405
    client.update_tag_properties(name, "v1", can_write=True, can_delete=True)
    assert client.update_repository_properties(name, can_list=False).can_list is False
    assert list(client.list_repository_names()) == []
    client.delete_tag(name, "v3")
    assert tags() == ["v1", "v2"]
    client.delete_repository(name)
    with pytest.raises(ResourceNotFoundError):
        client.get_repository_properties(name)


def test_the_javascript_sdk_pushes_reads_locks_and_deletes(ready, control_plane, registry, principal):
    assert NODE_PACKAGES, "WHARFINGER_E2E_NODE names the directory that scripts/test makes of e2e/javascript"
    completed = subprocess.run(
        ["node", "container_registry.mjs"],
        cwd=NODE_PACKAGES,
        env=clean_environment() | {
            "NODE_EXTRA_CA_CERTS": ready["ca_file"],
            "LOGIN_SERVER": registry.login_server,
            "ACCESS_TOKEN": control_plane.of(principal).token(),
            "AUDIENCE": control_plane.url,
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )  # fmt: skip
    EVIDENCE.text("stderr of node", completed.stderr)
    assert completed.returncode == 0, completed.stderr
    seen = json.loads(completed.stdout)
    name = "team/from-javascript"
    assert seen["repositories"] == [name]
    assert seen["pulled"] == seen["digest"] and seen["downloaded"] == "a layer from JavaScript"
    assert (seen["repository"]["tagCount"], seen["repository"]["manifestCount"]) == (3, 1)
    assert [manifest["digest"] for manifest in seen["manifests"]] == [seen["digest"]]
    assert (seen["manifest"]["architecture"], seen["manifest"]["operatingSystem"]) == ("arm64", "linux")
    assert seen["oldestFirst"] == ["v1", "v2", "v3"] and seen["newestFirst"] == ["v3", "v2", "v1"]
    assert seen["pages"] == [["v1", "v2"], ["v3"]]
    assert seen["locked"]["canWrite"] is False and seen["unlocked"]["canWrite"] is True
    assert seen["refusedPush"] == seen["refusedDeletion"] == [405, "REGISTRY_DISALLOWED_OPERATION"]
    assert seen["left"] == ["v1", "v2"]
    assert seen["gone"] == [404, "NAME_UNKNOWN"]


def test_oras_pushes_lists_pulls_and_deletes_an_artifact(ready, registry, password, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    def client(auth_backend):
        client = oras.client.OrasClient(
            hostname=registry.login_server, tls_verify=ready["ca_file"], auth_backend=auth_backend
        )
        client.login(
            username=registry.name, password=password, hostname=registry.login_server,
            config_path=str(tmp_path / "config.json"),
        )  # fmt: skip
        return client

    artifact = tmp_path / "notes.txt"
    artifact.write_text("what this release brings")
    repository = f"{registry.login_server}/team/notes"
    # With tokens it asks for none but the first, which is one to pull: it pushes by Basic.
    writer, reader = client("basic"), client("token")
    writer.push(target=f"{repository}:v1", files=[f"{artifact}:text/plain"], disable_path_validation=True)
    assert reader.get_tags(repository) == ["v1"]
    (path,) = reader.pull(target=f"{repository}:v1", outdir=str(tmp_path / "pulled"))
    assert open(path).read() == "what this release brings"
    assert writer.delete_tags(repository, "v1") == ["v1"]
    assert reader.get_tags(repository) == []


@pytest.fixture
def containers(ready, tmp_path):
    """podman and buildah as a user runs them who trusts the development CA: storage, credentials and certificates of their own."""
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(open(ready["ca_file"], "rb").read())
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    storage = tmp_path / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path / "run"}"\ngraphroot = "{tmp_path / "storage"}"\n'
    )
    environment = {
        "HOME": str(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"),
        "CONTAINERS_STORAGE_CONF": str(storage), "XDG_RUNTIME_DIR": str(tmp_path),
        "PATH": os.environ["PATH"],
    }  # fmt: skip

    def run(program, command, *arguments, **options):
        trust = ["--cert-dir", certificates] if command in ("login", "push", "pull") else []
        return run_program([program, command, *trust, *arguments], environment, **options)

    return run


def test_buildah_pushes_what_podman_pulls(containers, registry, password, tmp_path):
    image = Image("for podman").write_layout(tmp_path / "layout", "v1")
    target = f"{registry.login_server}/team/podman:v1"
    login = ("--username", registry.name, "--password-stdin", registry.login_server)
    containers("buildah", "login", *login, stdin=password)
    containers("buildah", "pull", image)
    (name,) = {line for line in containers("buildah", "images", "--format", "{{.ID}}").stdout.split()}
    containers("buildah", "push", name, f"docker://{target}")
    containers("buildah", "rmi", "--all", "--force")
    containers("podman", "login", *login, stdin=password)
    containers("podman", "pull", target)
    containers("podman", "tag", target, f"{target}-again")
    containers("podman", "push", f"{target}-again")
    containers("podman", "logout", registry.login_server)
    refused = containers("podman", "pull", f"{target}-again", exit_code=None)
    assert refused.exit_code != 0 and "authentication required" in refused.stderr.lower()


def test_podman_says_what_is_locked(containers, at, registry, password, tmp_path):
    image, changed = Image("locked"), Image("changed")
    client = at(registry, registry.name, password)
    client.push_image("team/locked", "v1", image)
    client.expect(200, "PATCH", "/acr/v1/team/locked/_tags/v1", json={"writeEnabled": False})
    source = changed.write_layout(tmp_path / "layout", "v1")
    target = f"docker://{registry.login_server}/team/locked:v1"
    login = ("--username", registry.name, "--password-stdin", registry.login_server)
    containers("podman", "login", *login, stdin=password)
    containers("podman", "pull", source)
    (name,) = {line for line in containers("podman", "images", "--format", "{{.ID}}").stdout.split()}
    refused = containers("podman", "push", name, target, exit_code=None)
    assert refused.exit_code != 0 and "disallowed" in refused.stderr, refused
