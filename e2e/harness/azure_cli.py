"""The unmodified Azure CLI, one configuration directory for each who is logged in."""

import json
import os
import pathlib
import shutil
import subprocess

from .evidence import EVIDENCE
from .installation import clean_environment

AZ = os.environ.get("WHARFINGER_E2E_AZ") or shutil.which("az") or "az"
TIMEOUT_SECONDS = 600


class Result:
    """What a command left behind."""

    def __init__(self, arguments, completed):
        self.arguments = arguments
        self.exit_code = completed.returncode
        self.stdout = completed.stdout
        self.stderr = completed.stderr

    @property
    def json(self):
        return json.loads(self.stdout)

    def __str__(self):
        return f"az {' '.join(self.arguments)}\nexit code {self.exit_code}\n{self.stdout}\n{self.stderr}"


class AzureCli:
    """`az` as one person uses it on one machine."""

    def __init__(self, directory, ca_file, environment=None):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.environment = clean_environment() | {
            "AZURE_CONFIG_DIR": str(self.directory),
            # Without these the CLI tries hosts that are not ours: its telemetry and its index of extensions.
            "AZURE_CORE_COLLECT_TELEMETRY": "no",
            "AZURE_EXTENSION_USE_DYNAMIC_INSTALL": "no",
            "AZURE_CORE_NO_COLOR": "yes",
            "REQUESTS_CA_BUNDLE": str(ca_file),
            "HOME": str(self.directory),
        }
        self.environment |= environment or {}

    def run(self, *arguments, exit_code=0):
        """Runs a command and holds it to its exit code (None: any)."""
        completed = subprocess.run(
            [AZ, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        result = Result(arguments, completed)
        EVIDENCE.text(f"stderr of az {' '.join(arguments[:3])}", result.stderr)
        if exit_code is not None:
            assert result.exit_code == exit_code, str(result)
        return result

    def json(self, *arguments):
        """Runs a command that must succeed and returns what it printed as JSON; None when it printed nothing."""
        result = self.run(*arguments, "--output", "json")
        return result.json if result.stdout.strip() else None

    def fails(self, *arguments):
        """Runs a command that must fail and returns its stderr."""
        result = self.run(*arguments, exit_code=None)
        assert result.exit_code != 0, f"this should have failed:\n{result}"
        return result.stderr

    def register_cloud(self, url):
        """The two commands of the README."""
        self.run("cloud", "register", "--name", "wharfinger", "--endpoint-resource-manager", url)
        self.run("cloud", "set", "--name", "wharfinger")

    def login(self, client_id, client_secret, tenant_id):
        return self.json(
            "login", "--service-principal", "--username", client_id, "--password", client_secret, "--tenant", tenant_id
        )  # fmt: skip
