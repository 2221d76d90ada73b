"""Bad input on both planes: refused with the protocol's own error, naming value and rule; always bounded; never a 5xx."""

import contextlib
import json
import socket
import ssl
import time

import pytest

from harness import raw
from harness.control_plane import GROUPS, REGISTRIES
from harness.images import INDEX_TYPE, MANIFEST_TYPE, Image, digest_of
from harness.names import fresh_name
from harness.registry import error_codes, with_digest
from harness.waiting import wait_until

NO_SUCH_DIGEST = digest_of(b"nobody ever pushed this")


@pytest.fixture(scope="module")
def shared(control_plane, group):
    registry = control_plane.new_registry(group)
    return registry, control_plane.admin_passwords(registry)["password"]


@pytest.fixture
def admin(shared, at):
    """The admin account of a registry that the tests of this file share; each uses repositories of its own."""
    registry, password = shared
    return at(registry, registry.name, password)


@pytest.fixture
def repository():
    return f"{fresh_name('team')}/app"


def refused(response, status, *codes):
    """Held to a status (or one of several) and an OCI error body with one of the codes."""
    allowed = (status,) if isinstance(status, int) else status
    assert response.status_code in allowed, f"{response.status_code} {response.text}"
    assert set(error_codes(response)) & set(codes), response.text
    return response


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["Upper", "a//b", "-a", "a-", "a/_b", ".a", "a..b", "a___b", "%2e%2e", "a%2F%2E%2E%2Fb", "sp%20ace", "a%00b",
         "%C3%A4", "a" * 256, "a/" * 120 + "a"],
    )  # fmt: skip
    def test_repository_names(self, admin, name):
        response = admin.request("POST", f"/v2/{name}/blobs/uploads/")
        refused(response, (400, 404), "NAME_INVALID", "NAME_UNKNOWN", "UNSUPPORTED")
        assert not any(fault in response.text for fault in ("os error", "panicked"))

    @pytest.mark.parametrize("tag", ["-v1", ".v1", "v%201", "a" * 129, "v%00", "v%2F1", "%C3%A4"])
    def test_tags(self, admin, repository, tag):
        image = Image("tags")
        for blob in image.blobs():
            admin.push_blob(repository, blob)
        response = admin.request(
            "PUT", f"/v2/{repository}/manifests/{tag}", data=image.manifest, headers={"Content-Type": MANIFEST_TYPE}
        )
        assert response.status_code in (400, 404), response.text
        assert error_codes(response)
        assert admin.request("GET", f"/v2/{repository}/tags/list").json().get("tags") in (None, [])

    @pytest.mark.parametrize(
        "digest",
        ["sha256:abc", "sha256:" + "g" * 64, "sha256:" + "A" * 64, "md5:" + "a" * 32, "sha256", ":", "sha256:",
         "sha256:" + "a" * 65, "sha256:..%2F..%2Fetc", "x" * 5000],
    )  # fmt: skip
    def test_digests(self, admin, repository, digest):
        admin.push_blob(repository, b"something")
        refused(admin.request("GET", f"/v2/{repository}/blobs/{digest}"), (400, 404, 414),
                "DIGEST_INVALID", "BLOB_UNKNOWN", "OPERATION_UNKNOWN", "UNSUPPORTED")  # fmt: skip
        start = admin.expect(202, "POST", f"/v2/{repository}/blobs/uploads/")
        finish = admin.request("PUT", with_digest(start.headers["Location"], digest), data=b"something")
        refused(finish, (400, 414), "DIGEST_INVALID", "UNSUPPORTED")

    def test_hosts_that_are_no_registry(self, admin):
        for host in ("nobody.registry.localhost", "registry.localhost", "localhost", "..", "a" * 300):
            response = admin.request("GET", "/v2/", headers={"Host": host})
            assert response.status_code in (400, 404), f"{host}: {response.status_code}"

    def test_what_does_not_exist_is_said_to_be_unknown(self, admin, repository):
        refused(admin.request("GET", f"/v2/{repository}/tags/list"), 404, "NAME_UNKNOWN")
        refused(admin.request("GET", f"/v2/{repository}/manifests/v1"), 404, "MANIFEST_UNKNOWN", "NAME_UNKNOWN")
        refused(admin.request("GET", f"/v2/{repository}/blobs/{NO_SUCH_DIGEST}"), 404, "BLOB_UNKNOWN", "NAME_UNKNOWN")
        refused(admin.request("GET", "/v3/"), 404, "OPERATION_UNKNOWN", "UNSUPPORTED")
        refused(admin.request("DELETE", "/v2/_catalog"), (404, 405), "OPERATION_UNKNOWN", "UNSUPPORTED")


class TestUploads:
    def test_a_digest_that_does_not_match_leaves_nothing(self, admin, repository):
        start = admin.expect(202, "POST", f"/v2/{repository}/blobs/uploads/")
        finish = admin.request("PUT", with_digest(start.headers["Location"], NO_SUCH_DIGEST), data=b"other bytes")
        refused(finish, 400, "DIGEST_INVALID")
        for digest in (NO_SUCH_DIGEST, digest_of(b"other bytes")):
            assert admin.request("HEAD", f"/v2/{repository}/blobs/{digest}").status_code == 404
        assert repository not in admin.expect(200, "GET", "/v2/_catalog?n=1000").json()["repositories"]

    @pytest.mark.parametrize("content_range", ["5-9", "0-3", "9-5", "x-y", "-1-4", "0-99999999999999999999"])
    def test_chunks_at_a_wrong_offset(self, admin, repository, content_range):
        start = admin.expect(202, "POST", f"/v2/{repository}/blobs/uploads/")
        first = admin.expect(202, "PATCH", start.headers["Location"], data=b"12345678")
        assert first.headers["Range"] == "0-7"
        response = admin.request(
            "PATCH", first.headers["Location"], data=b"abcde", headers={"Content-Range": content_range}
        )
        assert response.status_code in (400, 416), response.text
        state = admin.expect(204, "GET", first.headers["Location"])
        assert state.headers["Range"] == "0-7"
        rest = admin.expect(
            202, "PATCH", state.headers["Location"], data=b"9", headers={"Content-Range": "8-8"}
        )
        admin.expect(201, "PUT", with_digest(rest.headers["Location"], digest_of(b"123456789")))
        assert admin.expect(200, "GET", f"/v2/{repository}/blobs/{digest_of(b'123456789')}").content == b"123456789"

    def test_an_upload_that_does_not_exist(self, admin, repository, shared):
        start = admin.expect(202, "POST", f"/v2/{repository}/blobs/uploads/")
        path = start.headers["Location"].partition(shared[0].login_server)[2] or start.headers["Location"]
        head, _, upload = path.partition("?")[0].rpartition("/")
        for other in (upload[::-1], "..", "x", "0" * 36, upload + "0", "%2e%2e%2f" + upload):
            response = admin.request("PATCH", f"{head}/{other}", data=b"x")
            refused(
                response, (400, 404), "BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "NAME_INVALID", "OPERATION_UNKNOWN"
            )
        elsewhere = path.replace(repository, f"{repository}-other")
        refused(admin.request("PATCH", elsewhere, data=b"x"), (400, 404), "BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID")

    def test_a_cancelled_upload_is_gone(self, admin, repository):
        start = admin.expect(202, "POST", f"/v2/{repository}/blobs/uploads/")
        admin.expect(204, "DELETE", start.headers["Location"])
        refused(admin.request("PATCH", start.headers["Location"], data=b"x"), 404, "BLOB_UPLOAD_UNKNOWN")

    def test_a_connection_that_breaks_leaves_nothing_visible(self, admin, repository, installation, ready, shared):
        start = admin.expect(202, "POST", f"/v2/{repository}/blobs/uploads/")
        host = shared[0].login_server.partition(":")[0]
        path = "/" + start.headers["Location"].split("://", 1)[-1].partition("/")[2]
        token = admin.token(f"repository:{repository}:pull,push")
        with raw.connect(host, installation.registry_port, ready["ca_file"]) as connection:
            raw.send(
                connection,
                f"PATCH {path} HTTP/1.1\r\nHost: {shared[0].login_server}\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 5000,
            )
        assert repository not in admin.expect(200, "GET", "/v2/_catalog?n=1000").json()["repositories"]
        refused(admin.request("GET", f"/v2/{repository}/tags/list"), 404, "NAME_UNKNOWN")


class TestManifests:
    @pytest.mark.parametrize(
        "manifest",
        [b"", b"{", b"[]", b"null", b'"text"', b"{}", b'{"schemaVersion":1}', b"\xff\xfe", b"[" * 100_000,
         b'{"schemaVersion":2,"mediaType":"' + MANIFEST_TYPE.encode() + b'","config":7,"layers":"x"}'],
        ids=["empty", "open", "list", "null", "text", "bare", "old", "no-utf8", "deep", "types"],
    )  # fmt: skip
    def test_what_is_no_manifest(self, admin, repository, manifest):
        response = admin.request(
            "PUT", f"/v2/{repository}/manifests/v1", data=manifest, headers={"Content-Type": MANIFEST_TYPE}
        )
        refused(response, (400, 404), "MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN")
        assert admin.get_manifest(repository, "v1").status_code == 404

    def test_one_whose_parts_are_missing(self, admin, repository):
        image = Image("never pushed")
        response = admin.request(
            "PUT", f"/v2/{repository}/manifests/v1", data=image.manifest, headers={"Content-Type": MANIFEST_TYPE}
        )
        refused(response, (400, 404), "MANIFEST_BLOB_UNKNOWN")
        assert image.digest not in response.text
        assert digest_of(image.config) in response.text or digest_of(image.layers[0]) in response.text
        assert admin.get_manifest(repository, image.digest).status_code == 404
        refused(admin.request("GET", f"/v2/{repository}/tags/list"), 404, "NAME_UNKNOWN")

    def test_one_pushed_by_another_digest(self, admin, repository):
        image = Image("by digest")
        for blob in image.blobs():
            admin.push_blob(repository, blob)
        response = admin.request(
            "PUT", f"/v2/{repository}/manifests/{NO_SUCH_DIGEST}", data=image.manifest,
            headers={"Content-Type": MANIFEST_TYPE},
        )  # fmt: skip
        refused(response, 400, "DIGEST_INVALID", "MANIFEST_INVALID")
        admin.put_manifest(repository, image.digest, image.manifest)

    def test_one_that_is_too_large(self, admin, repository):
        large = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [], "x": "x" * 5_000_000})
        response = admin.request(
            "PUT", f"/v2/{repository}/manifests/v1", data=large, headers={"Content-Type": INDEX_TYPE}
        )
        refused(response, (400, 413), "SIZE_INVALID", "MANIFEST_INVALID", "TOO_LARGE")
        assert admin.get_manifest(repository, "v1").status_code == 404


class TestReads:
    CONTENT = b"0123456789" * 1000

    @pytest.fixture
    def blob(self, admin, repository):
        admin.push_blob(repository, self.CONTENT)
        return f"/v2/{repository}/blobs/{digest_of(self.CONTENT)}"

    @pytest.mark.parametrize(
        ("value", "first", "last"),
        [("bytes=0-0", 0, 0), ("bytes=5-", 5, 9999), ("bytes=-7", 9993, 9999), ("bytes=10-99999", 10, 9999)],
    )
    def test_ranges(self, admin, blob, value, first, last):
        response = admin.expect(206, "GET", blob, headers={"Range": value})
        assert response.content == self.CONTENT[first : last + 1]
        assert response.headers["Content-Range"] == f"bytes {first}-{last}/{len(self.CONTENT)}"

    @pytest.mark.parametrize("value", ["bytes=10000-", "bytes=99999999999999999999-", "bytes=-0"])
    def test_ranges_that_cannot_be_satisfied(self, admin, blob, value):
        response = admin.request("GET", blob, headers={"Range": value})
        assert response.status_code == 416
        assert response.headers["Content-Range"] == f"bytes */{len(self.CONTENT)}"

    @pytest.mark.parametrize("value", ["bytes=9-5", "bytes=a-b", "bytes", "lines=0-1", "bytes=--5", "bytes=,,", "é"])
    def test_ranges_that_are_none(self, admin, blob, value):
        response = admin.request("GET", blob, headers={"Range": value.encode()})
        assert response.status_code in (200, 400, 416)
        if response.status_code == 200:
            assert response.content == self.CONTENT

    @pytest.mark.parametrize("query", ["n=-1", "n=x", "n=99999999999999999999", "n=1.5"])
    def test_page_sizes(self, admin, repository, query):
        admin.push_image(repository, "v1", Image(query))
        for path in (f"/v2/{repository}/tags/list?{query}", f"/v2/_catalog?{query}"):
            response = admin.request("GET", path)
            assert response.status_code in (200, 400), response.text
            if response.status_code == 400:
                assert error_codes(response)

    def test_pages_are_ordered_and_complete(self, admin, repository):
        image = Image("pages")
        for blob in image.blobs():
            admin.push_blob(repository, blob)
        tags = sorted(f"t{number}" for number in range(7))
        for tag in reversed(tags):
            admin.put_manifest(repository, tag, image.manifest)
        seen, path = [], f"/v2/{repository}/tags/list?n=3"
        while path:
            response = admin.expect(200, "GET", path)
            assert len(response.json()["tags"]) <= 3
            seen += response.json()["tags"]
            path = response.links.get("next", {}).get("url")
        assert seen == tags


class TestCredentials:
    @pytest.mark.parametrize(
        "value",
        ["Basic", "Basic !!!", "Basic YQ==", "Basic " + "A" * 20_000, "Bearer", "Bearer x", "Bearer a.b.c", "Digest x",
         "Bearer " + "x" * 7000],
    )  # fmt: skip
    def test_nonsense_is_401_with_one_challenge(self, admin, shared, value):
        response = admin.request("GET", "/v2/", basic=False, headers={"Authorization": value})
        refused(response, (400, 401, 431), "UNAUTHORIZED")
        server = shared[0].login_server
        challenge = response.headers["WWW-Authenticate"]
        assert challenge.startswith(f'Bearer realm="https://{server}/oauth2/token",service="{server}"')
        assert ", " not in challenge

    @pytest.mark.parametrize(
        "scope",
        ["", "repository", "repository:", "repository:a", "repository:UPPER:pull", "registry:catalog", "a:b:c:d:e",
         "repository:x:fly", "x" * 5000],
    )  # fmt: skip
    def test_scopes_that_say_nothing_grant_nothing(self, admin, scope):
        response = admin.token_response(scope)
        assert response.status_code in (200, 400, 414), response.text
        if response.status_code == 200:
            import jwt

            claims = jwt.decode(response.json()["access_token"], options={"verify_signature": False})
            assert not [entry for entry in claims.get("access", []) if entry.get("actions")]

    @pytest.mark.parametrize(
        "form", [{}, {"grant_type": "password"}, {"grant_type": "magic"}, {"grant_type": "refresh_token"},
                 {"grant_type": "password", "username": "x", "password": "y"}],
    )  # fmt: skip
    def test_token_requests_that_are_none(self, admin, shared, form):
        response = admin.request("POST", "/oauth2/token", basic=False, data=form | {"service": shared[0].login_server})
        assert response.status_code in (400, 401)
        assert error_codes(response)


class TestControlPlaneBodies:
    BAD_JSON = {
        "empty": b"", "open": b"{", "list": b"[]", "text": b'"x"', "null": b"null", "no-utf8": b"\xff\xfe{}",
        "deep": b"[" * 100_000, "types": b'{"location":7,"sku":[],"properties":"x"}', "twice": b"{}{}",
    }  # fmt: skip

    @pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
    @pytest.mark.parametrize("what", ["registry", "group", "assignment", "application"])
    def test_what_is_no_model(self, control_plane, group, body, what):
        path, version, method = {
            "registry": (control_plane.registry_id(group, fresh_name()), REGISTRIES, "PUT"),
            "group": (control_plane.group_id(fresh_name("group")), GROUPS, "PUT"),
            "assignment": (
                f"{control_plane.group_id(group)}/providers/Microsoft.Authorization/roleAssignments/"
                "5f4dcc3b-0000-4000-8000-000000000001", "2022-04-01", "PUT",
            ),
            "application": ("/v1.0/applications", None, "POST"),
        }[what]  # fmt: skip
        answer = control_plane.request(
            method, path, version, data=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400, f"{answer.status_code} {answer.text}"
        assert answer.json()["error"]["code"]
        assert answer.json()["error"]["message"]

    def test_bodies_are_bounded(self, control_plane, group):
        path = control_plane.registry_id(group, fresh_name())
        large = json.dumps({"location": "westus", "sku": {"name": "Basic"}, "tags": {"a": "x" * 20_000_000}})
        with contextlib.suppress(OSError):
            answer = control_plane.request("PUT", path, REGISTRIES, data=large)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"]
        assert control_plane.request("GET", path, REGISTRIES).status_code == 404

    @pytest.mark.parametrize(
        "tags",
        [{"<": "x"}, {"a": "x" * 257}, {"k" * 513: "x"}, {"": "x"}, {f"t{n}": "x" for n in range(51)}, {"a": 7}, [],
         {"A": "1", "a": "2"}],
        ids=["character", "value", "key", "empty", "many", "type", "list", "twice"],
    )  # fmt: skip
    def test_tags(self, control_plane, group, tags):
        body = {"location": "westus", "sku": {"name": "Basic"}, "tags": tags}
        for path, version in (
            (control_plane.registry_id(group, fresh_name()), REGISTRIES),
            (control_plane.group_id(fresh_name("group")), GROUPS),
        ):
            answer = control_plane.request("PUT", path, version, json=body)
            assert answer.status_code == 400, answer.text
            error = answer.json()["error"]
            assert "tag" in error["message"].lower() or error["code"] == "InvalidRequestContent"

    @pytest.mark.parametrize("name", ["ends.", "a" * 91, "sp%20ace", "per%25cent", "a%3Fb", "a%5Cb", "%00"])
    def test_group_names(self, control_plane, name):
        answer = control_plane.request("PUT", control_plane.group_id(name), GROUPS, json={"location": "westus"})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"]

    @pytest.mark.parametrize("location", ["atlantis", "", " ", None, 7, "x" * 10_000])
    def test_locations(self, control_plane, location):
        answer = control_plane.request(
            "PUT", control_plane.group_id(fresh_name("group")), GROUPS, json={"location": location}
        )
        assert answer.status_code == 400, answer.text

    @pytest.mark.parametrize("subscription", ["x", "0", "..", "%00", "a" * 1000])
    def test_subscription_ids(self, control_plane, subscription):
        answer = control_plane.request("GET", f"/subscriptions/{subscription}/resourcegroups", GROUPS)
        assert answer.status_code in (400, 403, 404), answer.text

    @pytest.mark.parametrize("filter", ["x", "resourceType eq", "'", "(" * 10_000, "resourceType eq 'a' xor 1", "é"])
    def test_filters(self, control_plane, filter):
        for path, version in (
            (f"{control_plane.subscription}/resources", GROUPS),
            (f"{control_plane.subscription}/providers/Microsoft.Authorization/roleAssignments", "2022-04-01"),
            ("/v1.0/servicePrincipals", None),
        ):
            answer = control_plane.request("GET", path, version, params={"$filter": filter})
            assert answer.status_code in (400, 414), f"{path}: {answer.status_code} {answer.text}"
            assert answer.json()["error"]["code"]

    @pytest.mark.parametrize("role", ["x", "/subscriptions/x", "", None, 7, "../../x"])
    def test_role_definition_ids(self, control_plane, group, role):
        path = (
            f"{control_plane.group_id(group)}/providers/Microsoft.Authorization/roleAssignments/"
            "5f4dcc3b-0000-4000-8000-000000000002"
        )
        principal = control_plane.new_principal()
        body = {"properties": {"roleDefinitionId": role, "principalId": principal.object_id}}
        answer = control_plane.request("PUT", path, "2022-04-01", json=body)
        assert answer.status_code == 400, answer.text


class TestBounds:
    """What would hold a server's memory or connections: each is cut off, and others are served meanwhile."""

    @pytest.fixture(params=["control plane", "node"])
    def door(self, request, installation, ready, shared, at, control_plane):
        """Host, port and a call that a well-behaved client makes."""
        registry, password = shared
        if request.param == "control plane":
            serves = lambda: control_plane.request("GET", "/subscriptions", "2022-12-01").status_code == 200  # noqa: E731
            return "localhost", installation.port, ready["ca_file"], serves
        client = at(registry, registry.name, password)
        host = registry.login_server.partition(":")[0]
        return host, installation.registry_port, ready["ca_file"], lambda: client.login_status() == 200

    @pytest.mark.parametrize(
        "request_head",
        [
            "GET /{long} HTTP/1.1\r\nHost: {host}\r\n\r\n",
            "GET /v2/{long}/tags/list HTTP/1.1\r\nHost: {host}\r\n\r\n",
            "GET /?x={long} HTTP/1.1\r\nHost: {host}\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: {host}\r\nX-Long: {long}\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: {long}\r\n\r\n",
            "{long} / HTTP/1.1\r\nHost: {host}\r\n\r\n",
        ],
        ids=["path", "name", "query", "header", "host", "method"],
    )
    def test_a_million_characters(self, door, request_head):
        host, port, ca_file, serves = door
        with raw.connect(host, port, ca_file) as connection:
            raw.send(connection, request_head.format(long="a" * 1_000_000, host=f"{host}:{port}").encode())
            status = raw.status_of(raw.answer(connection))
        assert status in (None, 400, 401, 404, 413, 414, 431)
        assert serves()

    @pytest.mark.parametrize("stage", ["before the handshake", "in the handshake", "in the head"])
    def test_slow_clients_are_cut_off_and_hold_nobody_up(self, door, stage):
        host, port, ca_file, serves = door
        first_words = {"before the handshake": b"", "in the handshake": b"\x16\x03\x01", "in the head": b"GET / HTTP/1.1\r\nHost: "}

        def serves_beside_slow_clients():
            """The slow ones, if none of them was cut off before somebody else was served; a busy machine may be late for that."""
            with contextlib.suppress(ConnectionError, ssl.SSLError), contextlib.ExitStack() as opened:
                connections = []
                for _ in range(100):
                    connections.append(opened.enter_context(raw.connect(host, port, ca_file, tls=stage == "in the head")))
                    connections[-1].sendall(first_words[stage])
                assert serves()
                if raw.is_open(connections[0]):
                    return connections, opened.pop_all()
            return None

        connections, opened = wait_until(serves_beside_slow_clients, "somebody to be served while slow clients are connected", 300)
        with opened:
            started = time.monotonic()
            for connection in connections:
                status = raw.status_of(raw.answer(connection))
                assert status in (None, 400, 408)
            assert time.monotonic() - started < 300

    def test_garbage_instead_of_tls(self, door):
        host, port, ca_file, serves = door
        with socket.create_connection((host, port), timeout=300) as connection:
            raw.send(connection, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\0" * 100_000)
            raw.answer(connection)
        assert serves()

    @pytest.mark.parametrize(
        "head",
        [
            "POST /v1.0/applications HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
            "GET / HTTP/9.9\r\nHost: {host}\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "\0\0\0\0\r\n\r\n",
        ],
        ids=["negative", "huge", "two", "chunks", "version", "no-host", "zeros"],
    )
    def test_heads_that_are_none(self, door, head):
        host, port, ca_file, serves = door
        with raw.connect(host, port, ca_file) as connection:
            raw.send(connection, head.format(host=f"{host}:{port}").encode())
            connection.settimeout(30)
            received = b""
            with contextlib.suppress(OSError):
                received = connection.recv(65536)
        status = raw.status_of(received)
        assert status is None or 300 <= status < 500
        assert serves()
