"""The key that seals secrets at rest, replaced while the control plane serves."""

import base64
import os
import subprocess

import pytest

from harness.control_plane import ControlPlane
from harness.installation import BINARY, Installation, clean_environment
from harness.waiting import wait_until


@pytest.fixture
def own():
    """An installation of the test's own: its key file changes."""
    installation = Installation()
    try:
        installation.start()
        yield installation
    finally:
        installation.stop()
        installation.remove()


def test_a_new_key_seals_everything_and_the_old_one_can_go(own):
    control_plane = ControlPlane(own.ready)
    registry = control_plane.new_registry(control_plane.new_group())
    before = control_plane.admin_passwords(registry)
    key_file = own.state_dir / "key-encryption-key"
    new_key = own.state_dir / "new-key"
    old = key_file.read_text().strip()
    new = base64.b64encode(os.urandom(32)).decode()

    def admin(action, *arguments):
        return subprocess.run(
            [BINARY, "admin", "key-encryption-key", action,
             "--database-url-file", str(own.state_dir / "database-url"), *arguments],
            env=clean_environment(), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def write(path, *keys):
        path.touch(mode=0o600)
        path.write_text("\n".join(keys) + "\n")

    write(new_key, new, old)
    early = admin("rotate", "--key-encryption-key-file", str(new_key))
    assert early.returncode == 1
    assert "do not have key" in early.stderr
    write(key_file, new, old)
    # Control planes take the file up by themselves.
    rotated = wait_until(
        lambda: next(
            (done for done in [admin("rotate", "--key-encryption-key-file", str(key_file))] if done.returncode == 0), None
        ),
        "the rotation",
        interval=0.5,
    )
    assert "sealed anew: 3" in rotated.stdout, rotated.stdout
    assert control_plane.admin_passwords(registry) == before
    write(key_file, new)
    status = wait_until(
        lambda: next((said for said in [admin("status").stdout] if said.count(",") == 0), None), "the old key to leave"
    )
    sealed = [line for line in status.splitlines() if line.startswith("sealed with key")]
    assert len(sealed) == 1, status
    assert control_plane.admin_passwords(registry) == before
    renewed = control_plane.regenerate(registry, "password2")
    assert control_plane.admin_passwords(registry) == renewed
    control_plane.token()
