"""The object stores of a run, as flags of `wharfinger dev`. `scripts/test` starts them; see scripts/lib-object-stores.sh."""

import os
import pathlib
import uuid

S3_SECRET = "secret-of-the-tests"
# Azurite's account and key, the same everywhere.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class ObjectStore:
    """A prefix of its own in one of the stores."""

    def __init__(self, kind, directory):
        variable = f"WHARFINGER_TEST_{kind.upper()}_ENDPOINT"
        assert variable in os.environ, f"{variable} is not set: run `scripts/test e2e`, which starts the store"
        self.endpoint = os.environ[variable]
        self.location = f"{kind}://wharfinger/e2e/{uuid.uuid4()}"
        key_file = pathlib.Path(directory) / f"{kind}-key"
        key_file.write_text(S3_SECRET if kind == "s3" else AZURE_KEY)
        who = ["--content-store-key-id", "test"] if kind == "s3" else ["--content-store-account", AZURE_ACCOUNT]
        self.flags = [
            "--content-store", self.location,
            "--content-store-endpoint", self.endpoint,
            "--content-store-key-file", str(key_file),
            *who,
        ]  # fmt: skip
