"""Test equipment: makes a container in the Azurite of the tests, which is there when this ends with 0.

    azure_container.py ENDPOINT CONTAINER…      ENDPOINT ends with the account's name
"""

import base64
import email.utils
import hmac
import sys
import urllib.error
import urllib.request

# Azurite's account and key, the same everywhere and in its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2023-11-03"


def create(endpoint, container):
    date = email.utils.formatdate(usegmt=True)
    headers = {"x-ms-date": date, "x-ms-version": VERSION}
    canonical_headers = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    resource = f"/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    to_sign = "PUT" + "\n" * 12 + canonical_headers + resource
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), to_sign.encode(), "sha256")).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    headers["Content-Length"] = "0"
    request = urllib.request.Request(f"{endpoint}/{container}?restype=container", method="PUT", headers=headers)
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:
            sys.exit(f"{endpoint}/{container}: {error.code} {error.read().decode(errors='replace')}")


def main():
    endpoint, *containers = sys.argv[1:]
    for container in containers:
        create(endpoint, container)


if __name__ == "__main__":
    main()
