"""`wharfinger content`: an operator's tools beside the nodes that serve the content they look at."""

import json
import subprocess
import uuid

import pytest

from harness.images import Image, digest_of
from harness.installation import BINARY, clean_environment
from harness.names import fresh_name


@pytest.fixture
def content(installation):
    """Runs a tool on the content of the running nodes: exit code and the JSON that it prints."""
    directory = installation.state_dir / "content-westus"

    def run(command, registry, *options):
        arguments = [BINARY, "content", command, "--content-dir", directory, "--registry", registry, "--output", "json", *options]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=clean_environment())
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout)

    run.directory = directory
    return run


@pytest.fixture
def pushed(content, control_plane, registry, at):
    """An image in a registry that has no other content: client, image, the registry's uid."""
    before = set((content.directory / "r").glob("*"))
    principal = control_plane.new_principal_with("AcrPush", registry.id)
    client = at(registry, principal.client_id, principal.client_secret)
    image = Image(fresh_name())
    client.push_image("team/app", "v1", image)
    (found,) = set((content.directory / "r").glob("*")) - before
    return client, image, uuid.UUID(found.name)


def test_usage_counts_each_repository(content, pushed):
    client, image, uid = pushed
    client.push_image("team/other", "v1", image)
    _, (counted,) = content("usage", str(uid))
    blobs, manifest = sum(map(len, image.blobs())), len(image.manifest)
    assert counted["bytes"] == blobs + 2 * manifest
    sizes = {repository["name"]: repository["bytes"] for repository in counted["repositories"]}
    assert sizes == {"team/app": blobs + manifest, "team/other": blobs + manifest}


def test_verify_finds_what_is_damaged_and_a_push_mends_it(content, pushed):
    client, image, uid = pushed
    assert content("verify", str(uid), "--digests")[0] == 0
    layer = max(image.blobs(), key=len)
    (file,) = [file for file in (content.directory / "r" / str(uid) / "data").rglob("*") if file.is_file() and file.read_bytes() == layer]
    file.unlink()
    code, found = content("verify", str(uid))
    assert code == 1
    (fault,) = found["faults"]
    assert (fault["registry"], fault["repository"], fault["kind"], fault["subject"]) == (
        str(uid), "team/app", "data-missing", digest_of(layer),
    )  # fmt: skip
    assert fault["advice"]
    client.push_image("team/app", "v1", image)
    assert content("verify", str(uid), "--digests")[0] == 0
    assert client.pulls("team/app", "v1")


def test_collect_takes_nothing_that_is_young_or_used(content, pushed):
    client, _, uid = pushed
    client.push_blob("team/app", b"nobody refers to this yet")
    _, (dry,) = content("collect", str(uid), "--dry-run", "--keep-newest", "0")
    _, (done,) = content("collect", str(uid), "--keep-newest", "0")
    for report in (dry, done):
        assert not any(report["removed"].values())
    assert client.pulls("team/app", "v1")


def test_a_directory_without_content_is_refused(tmp_path):
    done = subprocess.run(
        [BINARY, "content", "usage", "--content-dir", tmp_path], capture_output=True, text=True, timeout=300, env=clean_environment()
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} holds no content: it has no readable record _format\n"
    assert not any(tmp_path.iterdir())
