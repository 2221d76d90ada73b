"""A registry node as a program meets it that speaks the OCI distribution protocol."""

import requests

from .addresses import bind
from .evidence import EVIDENCE
from .images import MANIFEST_TYPE, digest_of

TIMEOUT_SECONDS = 60


class RegistryClient:
    """Requests to one login server with one user's credentials."""

    def __init__(self, login_server, ca_file, user=None, password=None):
        self.login_server = login_server
        self.url = f"https://{login_server}"
        self.user = user
        self.password = password
        self.session = requests.Session()
        self.session.verify = str(ca_file)
        self.session.trust_env = False
        self.address = bind(self.session)

    def request(self, method, path, token=None, basic=True, **options):
        """Any request: with a bearer token if given, else by Basic, or bare with `basic=False`."""
        headers = dict(options.pop("headers", {}))
        if token:
            headers["Authorization"] = f"Bearer {token}"
        elif basic and self.user is not None:
            options["auth"] = (self.user, self.password)
        url = path if path.startswith("https://") else self.url + path
        options.setdefault("timeout", TIMEOUT_SECONDS)
        response = self.session.request(method, url, headers=headers, **options)
        if response.status_code >= 400:
            EVIDENCE.text(f"the error of {method} {path[:200]} at a node", response.text)
        return response

    def expect(self, status, method, path, **options):
        response = self.request(method, path, **options)
        allowed = (status,) if isinstance(status, int) else status
        assert response.status_code in allowed, f"{method} {path}: {response.status_code} {response.text}"
        return response

    # Tokens

    def token_response(self, *scopes):
        """GET of the token endpoint by Basic, as docker does it."""
        return self.request("GET", "/oauth2/token", params=[("service", self.login_server)] + [
            ("scope", scope) for scope in scopes
        ])  # fmt: skip

    def token(self, *scopes):
        response = self.token_response(*scopes)
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        return EVIDENCE.secret(response.json()["access_token"], "an access token of a node")

    def login_status(self):
        """What `docker login` would get."""
        return self.request("GET", "/v2/").status_code

    # Content

    def push_blob(self, repository, content, token=None):
        """A chunked upload in one PATCH, as docker does it."""
        start = self.expect(202, "POST", f"/v2/{repository}/blobs/uploads/", token=token)
        patch = self.expect(
            202, "PATCH", start.headers["Location"], token=token, data=content,
            headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip
        return self.expect(201, "PUT", with_digest(patch.headers["Location"], digest_of(content)), token=token)

    def push_image(self, repository, reference, image, token=None):
        for blob in image.blobs():
            self.push_blob(repository, blob, token)
        return self.put_manifest(repository, reference, image.manifest, token=token)

    def put_manifest(self, repository, reference, manifest, media_type=MANIFEST_TYPE, token=None, status=201):
        return self.expect(
            status, "PUT", f"/v2/{repository}/manifests/{reference}", token=token, data=manifest,
            headers={"Content-Type": media_type},
        )  # fmt: skip

    def get_manifest(self, repository, reference, token=None):
        return self.request(
            "GET", f"/v2/{repository}/manifests/{reference}", token=token, headers={"Accept": MANIFEST_TYPE}
        )  # fmt: skip

    def pulls(self, repository, reference, token=None):
        """Whether the manifest and everything it names can be had; a refusal is False, anything else fails."""
        response = self.get_manifest(repository, reference, token)
        if response.status_code in (401, 404):
            return False
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        manifest = response.json()
        for part in [manifest["config"], *manifest["layers"]]:
            blob = self.expect(200, "GET", f"/v2/{repository}/blobs/{part['digest']}", token=token)
            assert digest_of(blob.content) == part["digest"]
        return True


def with_digest(location, digest):
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def error_codes(response):
    """The codes of an OCI error body; a body of another shape fails."""
    body = response.json()
    assert set(body) == {"errors"}, body
    for error in body["errors"]:
        assert error["code"] and error["message"], error
    return [error["code"] for error in body["errors"]]
