"""Fixtures: one installation, one logged-in Azure CLI and two docker daemons for the whole run."""

import itertools
import pathlib
import shutil
import tempfile

import pytest

from harness import names
from harness.azure_cli import AzureCli
from harness.control_plane import ControlPlane
from harness.docker import Docker, DockerDaemon
from harness.images import busybox_archive
from harness.installation import Installation
from harness.registry import RegistryClient

LAST = "test_secrets.py"


def pytest_collection_modifyitems(items):
    """The search for leaked secrets looks back on all other tests, so it comes last."""
    items.sort(key=lambda item: item.path.name == LAST)


def pytest_sessionstart():
    names.forget_names()
    names.install_resolver()


def pytest_sessionfinish():
    names.forget_names()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows the end of the installation's log."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Installation):
                report.sections.append((f"log of {value.state_dir}", value.log_tail()))
    return report


@pytest.fixture(scope="session")
def installation():
    installation = Installation()
    try:
        yield installation.start()
    finally:
        installation.remove()


@pytest.fixture(scope="session")
def ready(installation):
    return installation.ready


@pytest.fixture(scope="session")
def control_plane(ready):
    """The bootstrap principal's view: Owner of the subscription and directory administrator."""
    return ControlPlane(ready)


@pytest.fixture(scope="session")
def cli_root():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="wharfinger-az-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def fresh_cli(ready, cli_root):
    """Makes an Azure CLI that knows nothing yet."""
    numbers = itertools.count()
    return lambda **environment: AzureCli(cli_root / str(next(numbers)), ready["ca_file"], environment)


@pytest.fixture(scope="session")
def az(ready, fresh_cli):
    """The CLI of the bootstrap principal, set up with the commands of the README."""
    cli = fresh_cli()
    cli.register_cloud(ready["control_plane"])
    cli.login(ready["client_id"], ready["client_secret"], ready["tenant_id"])
    return cli


@pytest.fixture(scope="session")
def cli_of(ready, fresh_cli, az):
    """Makes a CLI in which another principal is logged in."""

    def make(client_id, client_secret):
        cli = fresh_cli()
        shutil.copy(az.directory / "clouds.config", cli.directory)
        shutil.copy(az.directory / "config", cli.directory)
        cli.login(client_id, client_secret, ready["tenant_id"])
        return cli

    return make


@pytest.fixture(scope="session")
def daemon():
    daemon = DockerDaemon()
    try:
        yield daemon.start()
    finally:
        daemon.stop()


@pytest.fixture(scope="session")
def second_daemon():
    """A daemon that has nothing but what it pulls."""
    daemon = DockerDaemon()
    try:
        yield daemon.start()
    finally:
        daemon.stop()


@pytest.fixture
def docker(daemon):
    """A docker client without credentials."""
    return Docker(daemon)


@pytest.fixture
def second_docker(second_daemon):
    return Docker(second_daemon)


@pytest.fixture(scope="session")
def busybox(tmp_path_factory):
    return busybox_archive(tmp_path_factory.mktemp("busybox") / "busybox.tar")


@pytest.fixture(scope="session")
def group(control_plane):
    """A resource group for whatever a test makes."""
    return control_plane.new_group()


@pytest.fixture
def registry(control_plane, group):
    """A registry of the test's own, with its admin account on."""
    return control_plane.new_registry(group)


@pytest.fixture
def at(ready):
    """Makes a client of a registry: `at(registry, user, password)`."""
    return lambda registry, user=None, password=None: RegistryClient(
        registry.login_server, ready["ca_file"], user, password
    )
