"""All of `az acr repository` and `az acr manifest`, by a principal that signed in and by the admin account."""

import json

import pytest

from harness.images import INDEX_TYPE, MANIFEST_TYPE, Image, descriptor, digest_of
from harness.registry import error_codes

REPOSITORY = "team/app"
ALL_ENABLED = {"deleteEnabled": True, "listEnabled": True, "readEnabled": True, "writeEnabled": True}


@pytest.fixture(scope="module")
def images():
    return [Image("first"), Image("second")]


@pytest.fixture
def admin(control_plane, registry, at):
    """A client with the admin account, and two images pushed by it: v1 and latest are the second, old is the first."""
    client = at(registry, registry.name, control_plane.admin_passwords(registry)["password"])
    return client


@pytest.fixture
def filled(admin, images):
    admin.push_image(REPOSITORY, "old", images[0])
    for tag in ("v1", "latest"):
        admin.push_image(REPOSITORY, tag, images[1])
    return admin


def sign(admin, image):
    """Attaches a signature, as an index that says what it is about; its digest."""
    signature = json.dumps(
        {
            "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [],
            "artifactType": "application/vnd.example.signature",
            "subject": descriptor(MANIFEST_TYPE, image.manifest),
        }
    ).encode()  # fmt: skip
    admin.put_manifest(REPOSITORY, digest_of(signature), signature, INDEX_TYPE)
    return digest_of(signature)


def test_az_shows_what_a_registry_holds(az, registry, filled, images):
    old, new = images
    signature = sign(filled, new)

    def repository(command, *arguments):
        return az.json("acr", "repository", command, "--name", registry.name, *arguments)

    assert repository("list") == [REPOSITORY]
    shown = repository("show", "--repository", REPOSITORY)
    assert shown["registry"] == registry.login_server and shown["imageName"] == REPOSITORY
    assert (shown["tagCount"], shown["manifestCount"]) == (3, 3)
    assert shown["changeableAttributes"] == ALL_ENABLED
    shown = repository("show", "--image", f"{REPOSITORY}:v1")
    assert shown["name"] == "v1" and shown["digest"] == new.digest
    shown = repository("show", "--image", f"{REPOSITORY}@{old.digest}")
    assert shown["tags"] == ["old"] and shown["architecture"] == "amd64" and shown["os"] == "linux"
    assert shown["imageSize"] == sum(map(len, [old.manifest, *old.blobs()]))
    tags = repository("show-tags", "--repository", REPOSITORY, "--orderby", "time_desc", "--top", "2")
    assert tags == ["latest", "v1"]
    tags = repository("show-tags", "--repository", REPOSITORY, "--detail")
    assert [(tag["name"], tag["digest"]) for tag in tags] == [
        ("latest", new.digest), ("old", old.digest), ("v1", new.digest)
    ]  # fmt: skip

    # Another name of `manifest list-metadata`.
    assert len(repository("show-manifests", "--repository", REPOSITORY)) == 3

    def manifest(command, *arguments):
        return az.json("acr", "manifest", command, "--registry", registry.name, *arguments)

    listed = manifest("list-metadata", "--name", REPOSITORY, "--orderby", "time_asc")
    assert [entry["digest"] for entry in listed] == [old.digest, new.digest, signature]
    assert listed[1]["tags"] == ["latest", "v1"]
    assert manifest("show-metadata", "--name", f"{REPOSITORY}:v1")["digest"] == new.digest
    assert manifest("show", "--name", f"{REPOSITORY}:v1") == json.loads(new.manifest)
    assert json.loads(old.manifest) in manifest("list", "--name", REPOSITORY)
    referrers = manifest("list-referrers", "--name", f"{REPOSITORY}:v1")
    assert [entry["digest"] for entry in referrers["manifests"]] == [signature]


def test_az_locks_and_unlocks_what_it_then_deletes(az, registry, filled, images):
    old, new = images

    def repository(command, *arguments):
        return ["acr", "repository", command, "--name", registry.name, *arguments]

    image = ("--image", f"{REPOSITORY}:v1")
    locked = az.json(*repository("update", *image, "--write-enabled", "false", "--delete-enabled", "false"))
    assert locked["changeableAttributes"] == ALL_ENABLED | {"deleteEnabled": False, "writeEnabled": False}
    assert "disallowed" in az.fails(*repository("delete", *image, "--yes"))
    refused = filled.request(
        "PUT", f"/v2/{REPOSITORY}/manifests/v1", data=old.manifest, headers={"Content-Type": MANIFEST_TYPE}
    )
    assert refused.status_code == 405 and error_codes(refused) == ["REGISTRY_DISALLOWED_OPERATION"]
    assert "disallowed" in az.fails(*repository("delete", "--repository", REPOSITORY, "--yes"))
    az.run(*repository("update", *image, "--write-enabled", "true", "--delete-enabled", "true"))
    unread = az.json(
        "acr", "manifest", "update-metadata", "--registry", registry.name, "--name", f"{REPOSITORY}@{old.digest}",
        "--read-enabled", "false",
    )  # fmt: skip
    assert unread["changeableAttributes"] == ALL_ENABLED | {"readEnabled": False}
    assert filled.get_manifest(REPOSITORY, "old").status_code == 405

    az.run(*repository("untag", *image))
    assert filled.get_manifest(REPOSITORY, "v1").status_code == 404
    assert filled.pulls(REPOSITORY, new.digest)
    az.run("acr", "manifest", "delete", "--registry", registry.name, "--name", f"{REPOSITORY}@{old.digest}", "--yes")
    az.run(*repository("delete", "--image", f"{REPOSITORY}:latest", "--yes"))
    assert filled.get_manifest(REPOSITORY, new.digest).status_code == 404
    filled.push_image(REPOSITORY, "again", new)
    deleted = az.json(*repository("delete", "--repository", REPOSITORY, "--yes"))
    assert deleted == {"manifestsDeleted": [new.digest], "tagsDeleted": ["again"]}
    assert az.json(*repository("list")) == []


def test_az_does_it_by_the_admin_account_too(az, control_plane, registry, filled):
    password = control_plane.admin_passwords(registry)["password"]
    login = ("--username", registry.name, "--password", password)
    tags = az.json("acr", "repository", "show-tags", "--name", registry.name, "--repository", REPOSITORY, *login)
    assert tags == ["latest", "old", "v1"]


def test_az_says_what_is_not_there_and_what_is_not_built(az, registry, filled):
    name = ("--name", registry.name)
    unknown = az.fails("acr", "repository", "show", *name, "--repository", "none")
    assert "repository none is not known to this registry" in unknown
    assert "soft delete is not supported" in az.fails("acr", "repository", "list-deleted", *name)
    for command, target in (
        ("list-deleted", REPOSITORY),
        ("list-deleted-tags", REPOSITORY),
        ("restore", f"{REPOSITORY}:v1"),
    ):
        refused = az.fails("acr", "manifest", command, "--registry", registry.name, "--name", target)
        assert "soft delete is not supported" in refused, refused


def test_a_role_without_the_right_is_refused_at_once(control_plane, registry, filled, cli_of):
    principal = control_plane.new_principal_with("AcrPull", registry.id)
    cli = cli_of(principal.client_id, principal.client_secret)
    refused = cli.fails(
        "acr", "repository", "update", "--name", registry.name, "--repository", REPOSITORY, "--write-enabled", "false"
    )
    assert "requested access to the resource is denied" in refused, refused
