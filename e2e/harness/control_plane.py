"""The control plane as a program meets it that speaks HTTP: ARM and Graph requests with a bearer token."""

import threading
import uuid

import requests

from .addresses import bind
from .evidence import EVIDENCE
from .names import fresh_name, make_resolvable

REGISTRIES = "2025-11-01"
GROUPS = "2024-11-01"
ASSIGNMENTS = "2022-04-01"
DEFINITIONS = "2022-04-01"
SUBSCRIPTIONS = "2022-12-01"
TIMEOUT_SECONDS = 60

ROLES = {
    "Owner": "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",
    "Contributor": "b24988ac-6180-42a0-ab88-20f7382dd24c",
    "Reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7",
    "AcrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "AcrPush": "8311e382-0749-4cb8-b61a-304f252e45ec",
    "AcrDelete": "c2f4ef07-c644-48eb-af81-4b1b4947fb11",
}


class Principal:
    """A service principal with one secret."""

    def __init__(self, client_id, client_secret, object_id=None, application_id=None):
        self.client_id = client_id
        self.client_secret = EVIDENCE.secret(client_secret, "a service principal's secret")
        self.object_id = object_id
        self.application_id = application_id


class Registry:
    """A registry and how to reach it."""

    def __init__(self, resource):
        self.id = resource["id"]
        self.name = resource["name"]
        self.login_server = resource["properties"]["loginServer"]


class ControlPlane:
    """One caller's view: requests carry the token of `principal`, fetched when first needed."""

    def __init__(self, ready, principal=None):
        self.ready = ready
        self.url = ready["control_plane"].rstrip("/")
        self.subscription = f"/subscriptions/{ready['subscription_id']}"
        self.principal = principal or Principal(ready["client_id"], ready["client_secret"])
        self.session = requests.Session()
        self.session.verify = ready["ca_file"]
        self.session.trust_env = False
        self.address = bind(self.session)
        self._token = None
        self._lock = threading.Lock()

    def of(self, principal):
        """The same control plane, seen by another."""
        return ControlPlane(self.ready, principal)

    # Tokens

    def token_response(self, principal=None, **form):
        principal = principal or self.principal
        body = {
            "grant_type": "client_credentials",
            "client_id": principal.client_id,
            "client_secret": principal.client_secret,
            "scope": f"{self.url}/.default",
        }
        response = self.session.post(
            f"{self.url}/{self.ready['tenant_id']}/oauth2/v2.0/token", data=body | form, timeout=TIMEOUT_SECONDS
        )
        if response.status_code >= 400:
            EVIDENCE.text("an error of the token endpoint", response.text)
        return response

    def token(self, **form):
        response = self.token_response(**form)
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        return EVIDENCE.secret(response.json()["access_token"], "an access token of the control plane")

    # Requests

    def request(self, method, path, api_version=None, token=None, headers=None, **options):
        """Any request; `token=False` sends none, a string sends that one."""
        if token is None:
            with self._lock:
                self._token = self._token or self.token()
            token = self._token
        headers = dict(headers or {})
        if token:
            headers["Authorization"] = f"Bearer {token}"
        parameters = dict(options.pop("params", {}))
        if api_version:
            parameters["api-version"] = api_version
        response = self.session.request(
            method, self.url + path, params=parameters, headers=headers, timeout=TIMEOUT_SECONDS, **options
        )
        if response.status_code >= 400:
            EVIDENCE.text(f"the error of {method} {path[:200]}", response.text)
        return response

    def expect(self, status, method, path, api_version=None, **options):
        """A request that must end in `status` (or one of several); returns the decoded body, None when empty."""
        response = self.request(method, path, api_version, **options)
        allowed = (status,) if isinstance(status, int) else status
        assert response.status_code in allowed, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    # What most tests need first

    def group_id(self, name):
        return f"{self.subscription}/resourceGroups/{name}"

    def new_group(self, name=None, location="westus"):
        name = name or fresh_name("group")
        self.expect(201, "PUT", self.group_id(name), GROUPS, json={"location": location})
        return name

    def registry_id(self, group, name):
        return f"{self.group_id(group)}/providers/Microsoft.ContainerRegistry/registries/{name}"

    def new_registry(self, group, name=None, admin=True, location="westus"):
        """Creates a registry and makes its login server resolvable."""
        name = name or fresh_name()
        resource = self.expect(
            (200, 201),
            "PUT",
            self.registry_id(group, name),
            REGISTRIES,
            json={"location": location, "sku": {"name": "Basic"}, "properties": {"adminUserEnabled": admin}},
        )
        registry = Registry(resource)
        make_resolvable(registry.login_server.partition(":")[0])
        return registry

    def admin_passwords(self, registry):
        answer = self.expect(200, "POST", f"{registry.id}/listCredentials", REGISTRIES)
        return remember_passwords(answer)

    def regenerate(self, registry, slot):
        answer = self.expect(200, "POST", f"{registry.id}/regenerateCredential", REGISTRIES, json={"name": slot})
        return remember_passwords(answer)

    def new_principal(self, name=None):
        """An application, its service principal and a secret, owned by the caller."""
        application = self.expect(201, "POST", "/v1.0/applications", json={"displayName": name or fresh_name("app")})
        service_principal = self.expect(
            201, "POST", "/v1.0/servicePrincipals", json={"appId": application["appId"], "accountEnabled": True}
        )
        password = self.add_password("applications", application["id"])
        return Principal(application["appId"], password["secretText"], service_principal["id"], application["id"])

    def add_password(self, collection, object_id, **members):
        password = self.expect(
            200,
            "POST",
            f"/v1.0/{collection}/{object_id}/addPassword",
            json={"passwordCredential": {"displayName": "e2e"} | members},
        )
        EVIDENCE.secret(password["secretText"], "a service principal's secret")
        return password

    def rotate_secret(self, principal):
        """The principal with a new secret; those before are gone."""
        path = f"/v1.0/applications/{principal.application_id}"
        before = self.expect(200, "GET", path)["passwordCredentials"]
        added = self.add_password("applications", principal.application_id)
        for secret in before:
            self.expect(204, "POST", f"{path}/removePassword", json={"keyId": secret["keyId"]})
        return Principal(principal.client_id, added["secretText"], principal.object_id, principal.application_id)

    def assignment_of(self, principal, role, scope):
        """Path and body with which a built-in role is assigned anew."""
        path = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}"
        role_definition = f"{self.subscription}/providers/Microsoft.Authorization/roleDefinitions/{ROLES[role]}"
        properties = {
            "roleDefinitionId": role_definition,
            "principalId": principal.object_id,
            "principalType": "ServicePrincipal",
        }
        return path, {"properties": properties}

    def assign(self, principal, role, scope, expected=201):
        """Assigns a built-in role and returns the assignment."""
        path, body = self.assignment_of(principal, role, scope)
        return self.expect(expected, "PUT", path, ASSIGNMENTS, json=body)

    def new_principal_with(self, role, scope):
        principal = self.new_principal()
        self.assign(principal, role, scope)
        return principal


def remember_passwords(answer):
    passwords = {entry["name"]: entry["value"] for entry in answer["passwords"]}
    for value in passwords.values():
        EVIDENCE.secret(value, "an admin password")
    return passwords
