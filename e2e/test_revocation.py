"""Whatever is revoked is refused by the first request after the change said `complete`: by password and by a token from before."""

import datetime
import time

import pytest

from harness.control_plane import ASSIGNMENTS, REGISTRIES, Principal
from harness.ending_secret import with_a_secret_that_ends
from harness.images import Image
from harness.registry import RegistryClient

PROPAGATION = "x-wharfinger-propagation"
SCOPE = "repository:app:pull"


class Access:
    """Somebody's way to an image: by user name and password, and by a token that these gave."""

    def __init__(self, ready, registry, user, password):
        self.client = RegistryClient(registry.login_server, ready["ca_file"], user, password)
        self.token = self.client.token(SCOPE)
        assert self.client.pulls("app", "v1") and self.client.pulls("app", "v1", self.token)

    def first_answers(self):
        """Of one request each, none of them tried twice."""
        return [
            self.client.get_manifest("app", "v1", self.token).status_code,
            self.client.get_manifest("app", "v1").status_code,
            self.client.login_status(),
            self.client.token_response(SCOPE).status_code,
        ]


class Scene:
    """A registry with an image, its admin account and a principal that may pull."""

    def __init__(self, ready, control_plane, group):
        self.ready, self.control_plane, self.group = ready, control_plane, group
        self.registry = control_plane.new_registry(group)
        self.password = control_plane.admin_passwords(self.registry)["password"]
        self.principal = control_plane.new_principal()
        self.assignment = control_plane.assign(self.principal, "AcrPull", self.registry.id)
        client = RegistryClient(self.registry.login_server, ready["ca_file"], self.registry.name, self.password)
        client.push_image("app", "v1", Image("a layer"))

    def by_admin(self):
        return Access(self.ready, self.registry, self.registry.name, self.password)

    def by_principal(self, principal=None):
        principal = principal or self.principal
        return Access(self.ready, self.registry, principal.client_id, principal.client_secret)

    def change(self, method, path, api_version=None, **options):
        """A change that is in force when this returns."""
        answer = self.control_plane.request(method, path, api_version, **options)
        assert answer.ok, answer.text
        assert answer.headers[PROPAGATION] == "complete"

    # Ways to revoke. Each gives what is over then.

    def password_regenerated(self):
        access = self.by_admin()
        self.change("POST", f"{self.registry.id}/regenerateCredential", REGISTRIES, json={"name": "password"})
        return access

    def admin_account_off(self):
        access = self.by_admin()
        self.change("PATCH", self.registry.id, REGISTRIES, json={"properties": {"adminUserEnabled": False}})
        return access

    def admin_account_off_and_on(self):
        access = self.by_admin()
        for is_on in (False, True):
            self.change("PATCH", self.registry.id, REGISTRIES, json={"properties": {"adminUserEnabled": is_on}})
        return access

    def secret_removed(self):
        collection, object_id = "applications", self.principal.application_id
        added = self.control_plane.add_password(collection, object_id)
        access = self.by_principal(Principal(self.principal.client_id, added["secretText"]))
        self.change("POST", f"/v1.0/{collection}/{object_id}/removePassword", json={"keyId": added["keyId"]})
        return access

    def assignment_deleted(self):
        access = self.by_principal()
        self.change("DELETE", self.assignment["id"], ASSIGNMENTS)
        return access

    def service_principal_disabled(self):
        access = self.by_principal()
        path = f"/v1.0/servicePrincipals/{self.principal.object_id}"
        self.change("PATCH", path, json={"accountEnabled": False})
        return access

    def service_principal_deleted(self):
        access = self.by_principal()
        self.change("DELETE", f"/v1.0/servicePrincipals/{self.principal.object_id}")
        return access

    def application_deleted(self):
        access = self.by_principal()
        self.change("DELETE", f"/v1.0/applications/{self.principal.application_id}")
        return access


WAYS = [name for name, way in vars(Scene).items() if callable(way) and not name.startswith(("_", "by_", "change"))]


@pytest.fixture
def scene(ready, control_plane, group):
    return Scene(ready, control_plane, group)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_revoked_is_refused_by_the_first_request(scene, way):
    access = getattr(scene, way)()
    answers = access.first_answers()
    if way == "admin_account_off_and_on":
        # The passwords are the same and good again; the token of before stays dead.
        assert answers == [401, 200, 200, 200]
    else:
        assert answers == [401] * 4


def test_others_are_not_disturbed(scene):
    admin, principal = scene.by_admin(), scene.by_principal()
    scene.secret_removed()
    scene.change("POST", f"{scene.registry.id}/regenerateCredential", REGISTRIES, json={"name": "password2"})
    assert admin.first_answers() == principal.first_answers() == [200] * 4


def test_a_secret_and_its_tokens_end_at_their_end(scene):
    access, end = with_a_secret_that_ends(scene.control_plane, scene.principal, scene.by_principal, "microseconds")
    time.sleep(max(0.0, (end - datetime.datetime.now(datetime.UTC)).total_seconds()))
    assert access.first_answers() == [401] * 4


def test_a_deleted_registry_is_gone_and_its_successor_begins_empty(scene):
    accesses = [scene.by_admin(), scene.by_principal()]
    scene.change("DELETE", scene.registry.id, REGISTRIES)
    for access in accesses:
        assert access.first_answers() == [404] * 4
    again = scene.control_plane.new_registry(scene.group, scene.registry.name)
    assert again.login_server == scene.registry.login_server
    for access in accesses:
        assert access.first_answers() == [401] * 4
    password = scene.control_plane.admin_passwords(again)["password"]
    client = RegistryClient(again.login_server, scene.ready["ca_file"], again.name, password)
    assert client.get_manifest("app", "v1").status_code == 404
