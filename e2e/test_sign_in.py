"""Signing in with the Azure CLI in every way that there is, and what ends it."""

import base64
import datetime
import http.server
import json
import pathlib
import ssl
import subprocess
import threading
import time
import uuid

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from harness.azure_cli import AzureCli
from harness.control_plane import ControlPlane
from harness.evidence import EVIDENCE
from harness.installation import BINARY, Installation, clean_environment
from harness.names import fresh_name
from harness.waiting import free_port, wait_until

AUDIENCE = "api://AzureADTokenExchange"
SUBJECT = "repo:contoso/app:ref:refs/heads/main"


def private_pem(key):
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


class Issuer:
    """A throw-away issuer of tokens, as a continuous-integration service is one."""

    def __init__(self, directory):
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.key = rsa.generate_private_key(65537, 2048)
        self.ca_file = pathlib.Path(directory) / "issuer.pem"
        self._key_file = pathlib.Path(directory) / "issuer.key"
        self._certify()
        self.server = None

    def _certify(self):
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._key_file.write_bytes(private_pem(key))

    def start(self):
        number = self.key.public_key().public_numbers()

        def encode(value):
            return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()

        key = {"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256", "n": encode(number.n), "e": encode(number.e)}
        documents = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": [key]},
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(documents.get(self.path, {})).encode()
                self.send_response(200 if self.path in documents else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, self._key_file)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def token(self, **claims):
        now = int(time.time())
        claims = {"iss": self.url, "sub": SUBJECT, "aud": AUDIENCE, "iat": now, "exp": now + 300} | claims
        token = jwt.encode(claims, private_pem(self.key), algorithm="RS256", headers={"kid": "one"})
        return EVIDENCE.secret(token, "a federated token")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory):
    issuer = Issuer(tmp_path_factory.mktemp("issuer")).start()
    yield issuer
    issuer.stop()


@pytest.fixture(scope="module")
def own(issuer):
    """An installation that trusts the throw-away issuer's authority, and whose keys are rotated."""
    installation = Installation()
    try:
        trust = {"WHARFINGER_ISSUER_CA_FILE": str(issuer.ca_file), "WHARFINGER_ISSUER_ALLOW_PRIVATE": "true"}
        installation.spawn(trust)
        installation.wait_ready()
        yield installation
    finally:
        installation.remove()


@pytest.fixture(scope="module")
def plane(own):
    return ControlPlane(own.ready)


@pytest.fixture(scope="module")
def new_cli(own, tmp_path_factory):
    """Makes a CLI that knows the cloud and nobody."""

    def make():
        cli = AzureCli(tmp_path_factory.mktemp("az"), own.ready["ca_file"])
        cli.register_cloud(own.ready["control_plane"])
        return cli

    return make


@pytest.fixture(scope="module")
def administrator(own, new_cli):
    cli = new_cli()
    cli.login(own.ready["client_id"], own.ready["client_secret"], own.ready["tenant_id"])
    return cli


@pytest.fixture
def person(administrator, plane):
    """Somebody who may read the subscription; name and password."""
    name = f"{fresh_name('ann')}@wharf.test"
    password = EVIDENCE.secret(f"Correct-horse-{uuid.uuid4()}", "a user's password")
    administrator.json(
        "ad", "user", "create", "--display-name", "Ann", "--user-principal-name", name, "--password", password
    )  # fmt: skip
    administrator.run(
        "role", "assignment", "create", "--assignee", name, "--role", "Reader",
        "--scope", f"/subscriptions/{plane.ready['subscription_id']}",
    )  # fmt: skip
    return name, password


def admin_keys(own, *arguments):
    return subprocess.run(
        [BINARY, "admin", "keys", "rotate", "--database-url-file", str(own.state_dir / "database-url"),
         "--key-encryption-key-file", str(own.state_dir / "key-encryption-key"), *arguments],
        env=clean_environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_person_signs_in_until_disabled(person, new_cli, administrator, own):
    name, password = person
    cli = new_cli()
    accounts = cli.json("login", "--username", name, "--password", password)
    assert [account["user"]["name"] for account in accounts] == [name]
    assert accounts[0]["tenantId"] == own.ready["tenant_id"]
    assert cli.json("group", "list") is not None
    assert cli.json("ad", "signed-in-user", "show")["userPrincipalName"] == name
    shown = administrator.json("rest", "--method", "get", "--url", f"{own.ready['control_plane']}/v1.0/users/{name}",
                               "--resource", own.ready["control_plane"])  # fmt: skip
    assert shown["signInActivity"]["lastSignInDateTime"]
    administrator.run("ad", "user", "update", "--id", name, "--account-enabled", "false")
    assert "Traceback" not in cli.fails("group", "list")
    refused = cli.fails("login", "--username", name, "--password", password)
    assert "disabled" in refused and password not in refused
    # az keeps a refusal for as long as it says, and one that says nothing for a minute.
    administrator.run("ad", "user", "update", "--id", name, "--account-enabled", "true")
    cli.run("login", "--username", name, "--password", password)


def test_a_wrong_password_is_said_and_not_repeated(person, new_cli):
    name, _ = person
    refused = new_cli().fails("login", "--username", name, "--password", "not-the-password-at-all")
    assert "user name or the password is wrong" in refused
    assert "not-the-password-at-all" not in refused and "Traceback" not in refused


def test_a_tenant_may_be_named_by_its_domain_and_a_wrong_one_is_said(new_cli, own):
    def login(tenant):
        return ("login", "--service-principal", "--username", own.ready["client_id"],
                "--password", own.ready["client_secret"], "--tenant", tenant)  # fmt: skip

    domain = own.ready["control_plane"].partition("//")[2].partition(":")[0]
    for name in (domain, "adfs"):
        accounts = new_cli().json(*login(name))
        assert [account["tenantId"] for account in accounts] == [own.ready["tenant_id"]]
    refused = new_cli().fails(*login("contoso.onmicrosoft.com"))
    assert "AADSTS90002" in refused and own.ready["tenant_id"] in refused and "Traceback" not in refused


def test_sign_in_with_a_code_says_how_people_sign_in(new_cli):
    refused = new_cli().fails("login", "--use-device-code")
    assert "no sign-in pages" in refused and "--username" in refused and "Traceback" not in refused, refused


def test_a_rotated_secret_signs_in_without_a_logout(new_cli, own, plane):
    principal = plane.new_principal_with("Reader", f"/subscriptions/{own.ready['subscription_id']}")
    cli = new_cli()
    cli.login(principal.client_id, principal.client_secret, own.ready["tenant_id"])
    rotated = plane.rotate_secret(principal)
    cli.login(rotated.client_id, rotated.client_secret, own.ready["tenant_id"])
    assert cli.json("group", "list") is not None
    assert cli.json("ad", "sp", "show", "--id", rotated.client_id)["appId"] == rotated.client_id
    # Whoever has the secret of before is told so, once.
    other = new_cli()
    other.login(rotated.client_id, rotated.client_secret, own.ready["tenant_id"])
    plane.rotate_secret(rotated)
    refused = other.fails("group", "list")
    assert "AADSTS7000215" in refused and "Traceback" not in refused, refused


def test_a_certificate_signs_in(administrator, new_cli, own, tmp_path):
    made = administrator.json(
        "ad", "sp", "create-for-rbac", "--name", fresh_name("cert"), "--create-cert", "--role", "Reader",
        "--scopes", f"/subscriptions/{own.ready['subscription_id']}",
    )  # fmt: skip
    # The CLI puts the key beside its own files.
    pem = pathlib.Path(made["fileWithCertAndPrivateKey"])
    cli = new_cli()
    tenant = ("--tenant", own.ready["tenant_id"])
    cli.run("login", "--service-principal", "--username", made["appId"], "--certificate", str(pem), *tenant)
    assert cli.json("group", "list") is not None
    other = administrator.json(
        "ad", "sp", "create-for-rbac", "--name", fresh_name("cert"), "--create-cert", "--role", "Reader",
        "--scopes", f"/subscriptions/{own.ready['subscription_id']}",
    )  # fmt: skip
    refused = new_cli().fails(
        "login", "--service-principal", "--username", made["appId"],
        "--certificate", other["fileWithCertAndPrivateKey"], *tenant,
    )  # fmt: skip
    assert "certificate of the application" in refused and "Traceback" not in refused
    listed = administrator.json("ad", "app", "credential", "list", "--id", made["appId"], "--cert")
    key_id = listed[0]["keyId"]
    administrator.run("ad", "app", "credential", "delete", "--id", made["appId"], "--cert", "--key-id", key_id)
    assert "Traceback" not in cli.fails("group", "list"), "what came from it is dead"


def test_a_federated_token_signs_in_until_the_trust_ends(administrator, new_cli, own, plane, issuer, tmp_path):
    principal = plane.new_principal()
    plane.assign(principal, "Reader", f"/subscriptions/{own.ready['subscription_id']}")
    parameters = tmp_path / "federated.json"
    content = {"name": "main", "issuer": issuer.url, "subject": SUBJECT, "audiences": [AUDIENCE]}
    parameters.write_text(json.dumps(content))
    command = ("ad", "app", "federated-credential")
    created = administrator.json(*command, "create", "--id", principal.client_id, "--parameters", f"@{parameters}")

    def login(token):
        return ("login", "--service-principal", "--username", principal.client_id, "--federated-token", token,
                "--tenant", own.ready["tenant_id"])  # fmt: skip

    cli = new_cli()
    cli.run(*login(issuer.token()))
    assert cli.json("group", "list") is not None
    for claims in ({"sub": "repo:contoso/app:pull_request"}, {"aud": "api://other"}, {"exp": int(time.time()) - 10}):
        refused = new_cli().fails(*login(issuer.token(**claims)))
        assert "AADSTS" in refused and "Traceback" not in refused
    administrator.run(
        *command, "delete", "--id", principal.client_id, "--federated-credential-id", created["id"]
    )  # fmt: skip
    assert "Traceback" not in cli.fails("group", "list"), "what came from it is dead"


def test_an_issuer_that_is_down_is_named(administrator, new_cli, own, plane, tmp_path):
    down = Issuer(tmp_path)
    principal = plane.new_principal()
    content = {"name": "main", "issuer": down.url, "subject": SUBJECT, "audiences": [AUDIENCE]}
    administrator.run(
        "ad", "app", "federated-credential", "create", "--id", principal.client_id, "--parameters", json.dumps(content)
    )  # fmt: skip
    form = {
        "grant_type": "client_credentials",
        "client_id": principal.client_id,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": down.token(),
        "scope": f"{own.ready['control_plane']}/.default",
    }
    answer = plane.request("POST", "/adfs/oauth2/v2.0/token", token="", data=form)
    assert answer.status_code == 400, answer.text
    assert down.url in answer.json()["error_description"]
    assert int(answer.headers["retry-after"]) >= 1
    refused = new_cli().fails(
        "login", "--service-principal", "--username", principal.client_id, "--federated-token", down.token(),
        "--tenant", own.ready["tenant_id"],
    )  # fmt: skip
    assert "AADSTS50166" in refused and down.url in refused and "Traceback" not in refused


def test_when_a_secret_was_used_is_shown(administrator, plane):
    principal = plane.new_principal()
    plane.of(principal).token()

    def used():
        shown = plane.expect(200, "GET", f"/v1.0/applications/{principal.application_id}")
        return [entry["lastUsedDateTime"] for entry in shown["passwordCredentials"] if entry["lastUsedDateTime"]]

    at = wait_until(used, "the use to be shown")[0]
    assert at.endswith(":00:00Z"), at


def test_keys_are_rotated_without_a_break_and_revoked_at_once(administrator, own, plane):
    """Last in this file: tokens are dead then."""

    def kids():
        keys = plane.request("GET", "/adfs/discovery/keys", token="").json()["keys"]
        return [key["kid"] for key in keys]

    def is_good(token):
        return plane.request("GET", "/v1.0/applications", token=token).status_code == 200

    token = plane.token()
    before = kids()
    rotated = admin_keys(own)
    assert rotated.returncode == 0, rotated.stderr
    assert "signs from" in rotated.stdout
    wait_until(lambda: len(kids()) == len(before) + 1, "the new key to be shown")
    assert set(before) < set(kids())
    assert is_good(token) and is_good(plane.token())
    administrator.json("group", "list")
    revoked = admin_keys(own, "--revoke")
    assert revoked.returncode == 0, revoked.stdout + revoked.stderr
    assert "complete" in revoked.stdout
    assert not is_good(token)
    assert len(kids()) == 1 and not set(kids()) & set(before)
    administrator.json("group", "list")
    assert is_good(plane.token())
