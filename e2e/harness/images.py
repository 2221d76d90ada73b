"""Images made on the spot: nothing is fetched from anywhere."""

import gzip
import hashlib
import io
import json
import pathlib
import shutil
import tarfile

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def busybox_archive(path):
    """Writes a tar with nothing but a static busybox; `docker import` makes a runnable image of it."""
    busybox = shutil.which("busybox", path="/bin:/usr/bin") or "/bin/busybox"
    with tarfile.open(path, "w") as archive:
        archive.add(busybox, "bin/busybox")
    return path


class Image:
    """A small image in parts: config, layers, manifest."""

    def __init__(self, *layers, annotations=None):
        archives = [layer_of(text) for text in layers]
        # Compressed already: clients leave such layers, and with them the manifest's digest, as they are.
        self.layers = [gzip.compress(archive, mtime=0) for archive in archives]
        self.config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [digest_of(archive) for archive in archives]},
                "config": {},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, self.config),
            "layers": [descriptor(LAYER_TYPE, layer) for layer in self.layers],
        }
        if annotations:
            manifest["annotations"] = annotations
        self.manifest = json.dumps(manifest).encode()
        self.digest = digest_of(self.manifest)

    def blobs(self):
        return [self.config, *self.layers]

    def write_layout(self, directory, tag):
        """Writes an OCI image layout, as skopeo reads it."""
        directory = pathlib.Path(directory)
        blobs = directory / "blobs/sha256"
        blobs.mkdir(parents=True)
        for content in [*self.blobs(), self.manifest]:
            (blobs / digest_of(content).removeprefix("sha256:")).write_bytes(content)
        (directory / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        entry = descriptor(MANIFEST_TYPE, self.manifest) | {
            "annotations": {"org.opencontainers.image.ref.name": tag}
        }  # fmt: skip
        (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return f"oci:{directory}:{tag}"


def layer_of(text):
    """A layer that holds one file with this text."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("text")
        content = text.encode()
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def descriptor(media_type, content):
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
