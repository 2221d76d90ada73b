"""The ARM contract, header by header: ids, api-versions, case, slashes, verbs, ETags, errors."""

import re
import uuid

import pytest

from harness.control_plane import ASSIGNMENTS, GROUPS, REGISTRIES, ROLES, SUBSCRIPTIONS, Registry, remember_passwords
from harness.names import fresh_name

REGISTRY_VERSIONS = ["2023-07-01", "2025-11-01", "2026-09-01-preview"]
GUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def arm_error(response, status, code):
    """The error object of an ARM error response, held to its status, code and shape."""
    assert response.status_code == status, f"{response.status_code} {response.text}"
    assert response.headers["Content-Type"].startswith("application/json")
    error = response.json()["error"]
    assert error["code"] == code, error
    assert error["message"]
    return error


def registry_body(**members):
    return {"location": "westus", "sku": {"name": "Basic"}} | members


class TestHeaders:
    @pytest.mark.parametrize("token", [None, False], ids=["allowed", "refused"])
    def test_every_answer_has_ids_of_its_own(self, control_plane, token):
        answers = [control_plane.request("GET", "/subscriptions", SUBSCRIPTIONS, token=token) for _ in range(2)]
        ids = {answer.headers["x-ms-request-id"] for answer in answers}
        assert len(ids) == 2
        for answer in answers:
            assert GUID.match(answer.headers["x-ms-request-id"])
            assert GUID.match(answer.headers["x-ms-correlation-request-id"])
            assert answer.headers["Date"]

    def test_the_callers_correlation_id_comes_back(self, control_plane):
        mine = str(uuid.uuid4())
        answer = control_plane.request(
            "GET", "/subscriptions", SUBSCRIPTIONS, headers={"x-ms-correlation-request-id": mine}
        )
        assert answer.headers["x-ms-correlation-request-id"] == mine
        assert answer.headers["x-ms-request-id"] != mine

    @pytest.mark.parametrize("wanted", ["true", "false", None])
    def test_the_client_request_id_is_echoed_when_asked_for(self, control_plane, wanted):
        mine = str(uuid.uuid4())
        headers = {"x-ms-client-request-id": mine}
        if wanted is not None:
            headers["x-ms-return-client-request-id"] = wanted
        answer = control_plane.request("GET", "/subscriptions", SUBSCRIPTIONS, headers=headers)
        assert answer.headers.get("x-ms-client-request-id") == (mine if wanted == "true" else None)

    def test_answers_are_not_to_be_cached(self, control_plane):
        answer = control_plane.request("GET", "/subscriptions", SUBSCRIPTIONS)
        assert "no-" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Strict-Transport-Security" in answer.headers

    def test_what_only_the_service_may_set_is_not_believed(self, control_plane, group):
        somebody = str(uuid.uuid4())
        resource = control_plane.expect(
            201, "PUT", control_plane.registry_id(group, fresh_name()), "2026-09-01-preview", json=registry_body(),
            headers={
                "x-ms-client-object-id": somebody,
                "x-ms-client-principal-id": somebody,
                "x-ms-arm-resource-system-data": f'{{"createdBy":"{somebody}"}}',
            },
        )  # fmt: skip
        assert somebody not in str(resource)


class TestPaths:
    def test_double_and_trailing_slashes_do_not_matter(self, control_plane, registry):
        plain = control_plane.expect(200, "GET", registry.id, REGISTRIES)
        for path in (
            f"/{registry.id}",
            f"{registry.id}/",
            registry.id.replace("/providers/", "//providers/"),
            registry.id.replace("/registries/", "//registries//"),
        ):
            assert control_plane.expect(200, "GET", path, REGISTRIES) == plain

    def test_case_does_not_matter_and_the_created_case_is_kept(self, control_plane):
        group, name = fresh_name("Mixed"), fresh_name("Mixed")
        control_plane.expect(201, "PUT", control_plane.group_id(group), GROUPS, json={"location": "westus"})
        path = control_plane.registry_id(group, name)
        created = control_plane.expect(201, "PUT", path, REGISTRIES, json=registry_body())
        assert created["id"] == path
        assert created["properties"]["loginServer"].startswith(name.lower())
        for spelling in (path.lower(), path.upper().replace("/SUBSCRIPTIONS", "/SubScriptions")):
            assert control_plane.expect(200, "GET", spelling, REGISTRIES)["id"] == path
        again = control_plane.expect(200, "PUT", path.upper(), REGISTRIES, json=registry_body())
        assert again["id"] == path
        shown = control_plane.expect(200, "GET", control_plane.group_id(group).lower(), GROUPS)
        assert shown["id"] == control_plane.group_id(group)

    def test_an_unknown_path_is_an_arm_error(self, control_plane):
        answer = control_plane.request("GET", "/no/such/place", REGISTRIES)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"]

    def test_an_unknown_resource_type_is_named(self, control_plane, group):
        path = f"{control_plane.group_id(group)}/providers/Microsoft.ContainerRegistry/harbours/x"
        answer = control_plane.request("GET", path, REGISTRIES)
        assert answer.status_code == 404
        assert "harbours" in answer.json()["error"]["message"]

    def test_a_wrong_verb_is_an_arm_error(self, control_plane, registry):
        answer = control_plane.request("GET", f"{registry.id}/listCredentials", REGISTRIES)
        assert answer.status_code in (404, 405)
        assert answer.json()["error"]["code"]


class TestApiVersions:
    @pytest.mark.parametrize("version", REGISTRY_VERSIONS)
    def test_each_registry_version_creates_reads_and_deletes(self, control_plane, group, version):
        path = control_plane.registry_id(group, fresh_name())
        created = control_plane.expect(201, "PUT", path, version, json=registry_body())
        assert created["properties"]["provisioningState"] == "Succeeded"
        assert control_plane.expect(200, "GET", path, version) == created
        assert control_plane.request("DELETE", path, version).status_code == 200
        arm_error(control_plane.request("GET", path, version), 404, "ResourceNotFound")

    def test_a_version_shows_only_the_members_that_it_defines(self, control_plane, registry):
        old, middle, new = (
            control_plane.expect(200, "GET", registry.id, version)["properties"] for version in REGISTRY_VERSIONS
        )
        assert "anonymousPullEnabled" not in old
        assert "roleAssignmentMode" not in old
        assert middle["roleAssignmentMode"] == "LegacyRegistryPermissions"
        assert "softDeletePolicy" not in middle["policies"]
        assert new["policies"]["softDeletePolicy"]["status"] == "disabled"
        assert new["autoGeneratedDomainNameLabelScope"] == "Unsecure"

    def test_a_missing_version_is_refused(self, control_plane, registry):
        arm_error(control_plane.request("GET", registry.id), 400, "MissingApiVersionParameter")

    @pytest.mark.parametrize("version", ["2016-01-01", "latest", "2025-11-01;drop", "' or 1=1", ""])
    def test_an_unknown_version_is_refused_with_the_list_of_known_ones(self, control_plane, registry, version):
        answer = control_plane.request("GET", registry.id, params={"api-version": version})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] in (
            "NoRegisteredProviderFound", "InvalidApiVersionParameter", "MissingApiVersionParameter",
            "InvalidResourceType",
        )  # fmt: skip
        if version:
            for known in REGISTRY_VERSIONS:
                assert known in error["message"]

    @pytest.mark.parametrize("path", ["/subscriptions", "/tenants", "{group}"])
    def test_other_types_name_their_versions_too(self, control_plane, group, path):
        answer = control_plane.request("GET", path.format(group=control_plane.group_id(group)), "1999-01-01")
        assert answer.status_code == 400
        assert re.search(r"20\d\d-\d\d-\d\d", answer.json()["error"]["message"])


class TestAuthentication:
    def test_without_a_token(self, control_plane, registry):
        answer = control_plane.request("GET", registry.id, REGISTRIES, token=False)
        arm_error(answer, 401, "AuthenticationFailed")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")

    @pytest.mark.parametrize("token", ["x", "a.b.c", "e30.e30.", "ey" * 4000], ids=["short", "dots", "none", "long"])
    def test_with_nonsense_for_a_token(self, control_plane, registry, token):
        answer = control_plane.request("GET", registry.id, REGISTRIES, token=token)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] in ("InvalidAuthenticationToken", "AuthenticationFailed")

    def test_a_token_with_a_changed_signature(self, control_plane, registry):
        head, _, signature = control_plane.token().rpartition(".")
        changed = f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
        arm_error(control_plane.request("GET", registry.id, REGISTRIES, token=changed), 401, "InvalidAuthenticationToken")

    def test_a_token_for_the_registry_audience_is_not_for_arm(self, control_plane, registry):
        token = control_plane.token(scope="https://containerregistry.azure.net/.default")
        answer = control_plane.request("GET", registry.id, REGISTRIES, token=token)
        assert answer.status_code == 401

    def test_a_caller_without_rights_cannot_tell_what_exists(self, control_plane, group, registry):
        nobody = control_plane.of(control_plane.new_principal())
        present = nobody.request("GET", registry.id, REGISTRIES)
        absent = nobody.request("GET", control_plane.registry_id(group, fresh_name()), REGISTRIES)
        for answer in (present, absent):
            error = arm_error(answer, 403, "AuthorizationFailed")
            assert "Microsoft.ContainerRegistry/registries/read" in error["message"]
            assert nobody.principal.object_id in error["message"]

    def test_lists_are_filtered_and_never_refused(self, control_plane, registry):
        nobody = control_plane.of(control_plane.new_principal())
        for path, version in (
            ("/subscriptions", SUBSCRIPTIONS),
            (f"{control_plane.subscription}/providers/Microsoft.ContainerRegistry/registries", REGISTRIES),
            (f"{control_plane.subscription}/resources", GROUPS),
            (f"{control_plane.subscription}/resourcegroups", GROUPS),
        ):
            assert nobody.expect(200, "GET", path, version)["value"] == []

    def test_a_token_dies_with_the_secret_that_it_came_from(self, control_plane):
        principal = control_plane.new_principal()
        caller = control_plane.of(principal)
        caller.expect(200, "GET", "/subscriptions", SUBSCRIPTIONS)
        application = control_plane.expect(200, "GET", f"/v1.0/applications/{principal.application_id}")
        key = application["passwordCredentials"][0]["keyId"]
        control_plane.expect(
            204, "POST", f"/v1.0/applications/{principal.application_id}/removePassword", json={"keyId": key}
        )
        assert caller.request("GET", "/subscriptions", SUBSCRIPTIONS).status_code == 401
        assert caller.token_response().status_code == 401


class TestResourceGroups:
    def test_put_is_201_then_200(self, control_plane):
        path = control_plane.group_id(fresh_name("group"))
        created = control_plane.expect(201, "PUT", path, GROUPS, json={"location": "West US"})
        assert created == {
            "id": path,
            "name": path.rpartition("/")[2],
            "type": "Microsoft.Resources/resourceGroups",
            "location": "westus",
            "properties": {"provisioningState": "Succeeded"},
        }
        tagged = control_plane.expect(200, "PUT", path, GROUPS, json={"location": "westus", "tags": {"a": "b"}})
        assert tagged["tags"] == {"a": "b"}

    def test_head_tells_whether_it_exists(self, control_plane, group):
        assert control_plane.request("HEAD", control_plane.group_id(group), GROUPS).status_code == 204
        absent = control_plane.request("HEAD", control_plane.group_id(fresh_name("group")), GROUPS)
        assert absent.status_code == 404
        assert absent.content == b""

    def test_patch_replaces_all_tags(self, control_plane):
        path = control_plane.group_id(control_plane.new_group())
        control_plane.expect(200, "PATCH", path, GROUPS, json={"tags": {"one": "1", "two": "2"}})
        patched = control_plane.expect(200, "PATCH", path, GROUPS, json={"tags": {"three": "3"}})
        assert patched["tags"] == {"three": "3"}

    def test_the_location_cannot_change(self, control_plane, group):
        answer = control_plane.request("PUT", control_plane.group_id(group), GROUPS, json={"location": "eastus"})
        assert answer.status_code in (400, 409)
        assert "eastus" in answer.json()["error"]["message"]

    def test_missing_group(self, control_plane):
        name = fresh_name("group")
        path = control_plane.group_id(name)
        assert name in arm_error(control_plane.request("GET", path, GROUPS), 404, "ResourceGroupNotFound")["message"]
        inside = control_plane.registry_id(name, fresh_name())
        arm_error(control_plane.request("PUT", inside, REGISTRIES, json=registry_body()), 404, "ResourceGroupNotFound")
        arm_error(control_plane.request("DELETE", path, GROUPS), 404, "ResourceGroupNotFound")

    def test_missing_subscription(self, control_plane):
        path = f"/subscriptions/{uuid.uuid4()}/resourceGroups/{fresh_name('group')}"
        answer = control_plane.request("PUT", path, GROUPS, json={"location": "westus"})
        assert answer.status_code in (403, 404)
        assert answer.json()["error"]["code"] in ("SubscriptionNotFound", "AuthorizationFailed")

    def test_a_group_is_deleted_without_polling(self, control_plane):
        path = control_plane.group_id(control_plane.new_group())
        answer = control_plane.request("DELETE", path, GROUPS)
        assert answer.status_code == 200
        assert "Location" not in answer.headers


class TestRegistries:
    def test_put_is_201_then_200_and_missing_members_return_to_their_defaults(self, control_plane, group):
        path = control_plane.registry_id(group, fresh_name())
        body = registry_body(tags={"a": "b"}, properties={"adminUserEnabled": True})
        created = control_plane.expect(201, "PUT", path, REGISTRIES, json=body)
        assert created["properties"]["adminUserEnabled"] is True
        again = control_plane.expect(200, "PUT", path, REGISTRIES, json=registry_body())
        assert again["properties"]["adminUserEnabled"] is False
        assert again["tags"] == {}
        assert again["properties"]["creationDate"] == created["properties"]["creationDate"]

    def test_what_was_read_can_be_put_back(self, control_plane, registry):
        read = control_plane.expect(200, "GET", registry.id, REGISTRIES)
        back = control_plane.expect(200, "PUT", registry.id, REGISTRIES, json=read)
        changing = ("systemData", "etag")
        assert {k: v for k, v in back.items() if k not in changing} == {
            k: v for k, v in read.items() if k not in changing
        }

    def test_patch_replaces_all_tags_and_merges_properties(self, control_plane, registry):
        control_plane.expect(200, "PATCH", registry.id, REGISTRIES, json={"tags": {"one": "1"}})
        patched = control_plane.expect(
            200, "PATCH", registry.id, REGISTRIES, json={"tags": {"two": "2"}, "sku": {"name": "Premium"}}
        )
        assert patched["tags"] == {"two": "2"}
        assert patched["sku"] == {"name": "Premium", "tier": "Premium"}
        assert patched["properties"]["adminUserEnabled"] is True
        assert patched["properties"]["provisioningState"] == "Succeeded"

    def test_patch_of_a_missing_one(self, control_plane, group):
        answer = control_plane.request("PATCH", control_plane.registry_id(group, fresh_name()), REGISTRIES, json={})
        arm_error(answer, 404, "ResourceNotFound")

    def test_delete_is_200_then_204(self, control_plane, group):
        registry = control_plane.new_registry(group)
        assert control_plane.request("DELETE", registry.id, REGISTRIES).status_code == 200
        again = control_plane.request("DELETE", registry.id, REGISTRIES)
        assert again.status_code == 204
        assert again.content == b""

    def test_system_data_tells_who_and_when(self, control_plane, registry):
        data = control_plane.expect(200, "GET", registry.id, REGISTRIES)["systemData"]
        assert data["createdBy"]
        assert data["createdByType"] == "Application"
        assert data["createdAt"] == data["lastModifiedAt"]
        patched = control_plane.expect(200, "PATCH", registry.id, REGISTRIES, json={"tags": {"x": "y"}})["systemData"]
        assert patched["createdAt"] == data["createdAt"]
        assert patched["lastModifiedAt"] > data["lastModifiedAt"]

    def test_a_name_is_one_in_the_whole_installation(self, control_plane, registry):
        elsewhere = control_plane.registry_id(control_plane.new_group(), registry.name.upper())
        answer = control_plane.request("PUT", elsewhere, REGISTRIES, json=registry_body())
        assert answer.status_code == 409
        error = answer.json()["error"]
        assert error["code"] in ("AlreadyInUse", "RegistryNameAlreadyInUse")
        assert registry.name in error["message"].lower()

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("adminUserEnabled", {"properties": {"adminUserEnabled": "yes"}}),
            ("publicNetworkAccess", {"properties": {"publicNetworkAccess": "Disabled"}}),
            ("anonymousPullEnabled", {"properties": {"anonymousPullEnabled": True}}),
            ("dataEndpointEnabled", {"properties": {"dataEndpointEnabled": True}}),
            ("zoneRedundancy", {"properties": {"zoneRedundancy": "Enabled"}}),
            ("networkRuleSet", {"properties": {"networkRuleSet": {"defaultAction": "Deny"}}}),
            ("retentionPolicy", {"properties": {"policies": {"retentionPolicy": {"days": 30, "status": "enabled"}}}}),
            ("encryption", {"properties": {"encryption": {"status": "enabled"}}}),
            ("roleAssignmentMode", {"properties": {"roleAssignmentMode": "Both"}}),
            ("identity", {"identity": {"type": "SystemAssigned"}}),
        ],
    )
    def test_what_is_not_built_is_refused_by_name_and_not_stored(self, control_plane, group, name, body):
        path = control_plane.registry_id(group, fresh_name())
        answer = control_plane.request("PUT", path, REGISTRIES, json=registry_body(**body))
        assert answer.status_code == 400, answer.text
        assert name in answer.text
        arm_error(control_plane.request("GET", path, REGISTRIES), 404, "ResourceNotFound")

    def test_published_defaults_are_shown_and_accepted(self, control_plane, group):
        path = control_plane.registry_id(group, fresh_name())
        defaults = control_plane.expect(201, "PUT", path, "2026-09-01-preview", json=registry_body())["properties"]
        assert defaults["publicNetworkAccess"] == "Enabled"
        assert defaults["zoneRedundancy"] == "Disabled"
        assert defaults["encryption"] == {"status": "disabled"}
        assert defaults["policies"]["exportPolicy"] == {"status": "enabled"}
        assert defaults["policies"]["azureADAuthenticationAsArmPolicy"] == {"status": "enabled"}
        control_plane.expect(200, "PUT", path, "2026-09-01-preview", json=registry_body(properties=defaults))

    def test_every_fault_of_a_body_is_named_at_once(self, control_plane, group):
        answer = control_plane.request(
            "PUT",
            control_plane.registry_id(group, fresh_name()),
            REGISTRIES,
            json={
                "location": "westus",
                "sku": {"name": "Gigantic"},
                "properties": {"zoneRedundancy": "Enabled", "dataEndpointEnabled": True},
            },
        )
        assert answer.status_code == 400
        for fault in ("Gigantic", "zoneRedundancy", "dataEndpointEnabled"):
            assert fault in answer.text

    @pytest.mark.parametrize("name", ["abc", "a" * 51, "with-dash", "with_under", "dot.ted", "späti12", "a%00bcdef"])
    def test_a_bad_name_is_refused_with_the_rule(self, control_plane, group, name):
        answer = control_plane.request("PUT", control_plane.registry_id(group, name), REGISTRIES, json=registry_body())
        assert answer.status_code == 400
        assert answer.json()["error"]["code"]

    def test_check_name_tells_free_taken_and_invalid(self, control_plane, registry):
        def check(name):
            return control_plane.expect(
                200,
                "POST",
                f"{control_plane.subscription}/providers/Microsoft.ContainerRegistry/checkNameAvailability",
                REGISTRIES,
                json={"name": name, "type": "Microsoft.ContainerRegistry/registries"},
            )

        assert check(fresh_name())["nameAvailable"] is True
        taken = check(registry.name.upper())
        assert (taken["nameAvailable"], taken["reason"]) == (False, "AlreadyExists")
        assert taken["message"]
        invalid = check("no-good")
        assert (invalid["nameAvailable"], invalid["reason"]) == (False, "Invalid")
        assert invalid["message"]


class TestCredentials:
    def test_user_name_and_two_passwords(self, control_plane, registry):
        answer = control_plane.expect(200, "POST", f"{registry.id}/listCredentials", REGISTRIES)
        remember_passwords(answer)
        assert answer["username"] == registry.name
        assert [entry["name"] for entry in answer["passwords"]] == ["password", "password2"]
        assert len({entry["value"] for entry in answer["passwords"]}) == 2

    @pytest.mark.parametrize(("slot", "other"), [("password", "password2"), ("password2", "password")])
    def test_regenerating_one_leaves_the_other(self, control_plane, registry, slot, other):
        before = control_plane.admin_passwords(registry)
        after = control_plane.regenerate(registry, slot)
        assert after[slot] != before[slot]
        assert after[other] == before[other]
        assert control_plane.admin_passwords(registry) == after

    @pytest.mark.parametrize("action", ["listCredentials", "regenerateCredential"])
    def test_the_published_error_while_admin_is_off(self, control_plane, group, action):
        registry = control_plane.new_registry(group, admin=False)
        answer = control_plane.request("POST", f"{registry.id}/{action}", REGISTRIES, json={"name": "password"})
        error = arm_error(answer, 400, "UnAuthorizedForCredentialOperations")
        assert registry.id in error["message"]

    @pytest.mark.parametrize("body", [{"name": "password3"}, {}, {"name": None}, [], "password"])
    def test_a_slot_that_does_not_exist(self, control_plane, registry, body):
        before = control_plane.admin_passwords(registry)
        answer = control_plane.request("POST", f"{registry.id}/regenerateCredential", REGISTRIES, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"]
        assert control_plane.admin_passwords(registry) == before

    def test_a_reader_may_not_see_them(self, control_plane, registry):
        reader = control_plane.of(control_plane.new_principal_with("Reader", registry.id))
        answer = reader.request("POST", f"{registry.id}/listCredentials", REGISTRIES)
        assert "listCredentials/action" in arm_error(answer, 403, "AuthorizationFailed")["message"]


class TestETags:
    def test_put_if_match_on_a_missing_one(self, control_plane, group):
        path = control_plane.registry_id(group, fresh_name())
        for value in ("*", '"x"'):
            answer = control_plane.request("PUT", path, REGISTRIES, json=registry_body(), headers={"If-Match": value})
            assert answer.status_code == 412
        assert control_plane.request("GET", path, REGISTRIES).status_code == 404

    def test_put_if_none_match(self, control_plane, group, registry):
        path = control_plane.registry_id(group, fresh_name())
        only_new = {"If-None-Match": "*"}
        control_plane.expect(201, "PUT", path, REGISTRIES, json=registry_body(), headers=only_new)
        for existing in (path, registry.id):
            answer = control_plane.request("PUT", existing, REGISTRIES, json=registry_body(), headers=only_new)
            assert answer.status_code == 412

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    def test_a_stale_etag_changes_nothing(self, control_plane, registry, method):
        body = registry_body(tags={"x": "y"})
        answer = control_plane.request(method, registry.id, REGISTRIES, json=body, headers={"If-Match": '"stale"'})
        assert answer.status_code == 412
        assert answer.json()["error"]["code"]
        assert control_plane.expect(200, "GET", registry.id, REGISTRIES)["tags"] == {}

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    def test_any_existing_one_matches_a_star(self, control_plane, registry, method):
        body = registry_body()
        answer = control_plane.request(method, registry.id, REGISTRIES, json=body, headers={"If-Match": "*"})
        assert answer.status_code == 200

    def test_delete_of_a_missing_one_is_204_with_any_etag(self, control_plane, group):
        path = control_plane.registry_id(group, fresh_name())
        for value in ("*", '"x"'):
            assert control_plane.request("DELETE", path, REGISTRIES, headers={"If-Match": value}).status_code == 204


class TestRoleAssignments:
    def test_the_same_again_is_200_and_under_another_name_a_conflict(self, control_plane, registry):
        principal = control_plane.new_principal()
        first = control_plane.assign(principal, "AcrPull", registry.id)
        body = {"properties": {k: first["properties"][k] for k in ("roleDefinitionId", "principalId")}}
        again = control_plane.expect(200, "PUT", first["id"], ASSIGNMENTS, json=body)
        assert again["name"] == first["name"]
        conflict = control_plane.assign(principal, "AcrPull", registry.id, expected=409)
        assert conflict["error"]["code"] == "RoleAssignmentExists"
        assert first["name"].replace("-", "") in conflict["error"]["message"].replace("-", "")

    def test_a_name_cannot_be_given_to_something_else(self, control_plane, registry):
        first = control_plane.assign(control_plane.new_principal(), "AcrPull", registry.id)
        other = control_plane.new_principal()
        body = {
            "properties": {
                "roleDefinitionId": first["properties"]["roleDefinitionId"],
                "principalId": other.object_id,
            }
        }
        answer = control_plane.request("PUT", first["id"], ASSIGNMENTS, json=body)
        arm_error(answer, 400, "RoleAssignmentUpdateNotPermitted")

    def test_a_principal_that_does_not_exist(self, control_plane, registry):
        ghost = control_plane.new_principal()
        ghost.object_id = str(uuid.uuid4())
        refused = control_plane.assign(ghost, "AcrPull", registry.id, expected=400)
        assert refused["error"]["code"] == "PrincipalNotFound"
        assert ghost.object_id.replace("-", "") in refused["error"]["message"].replace("-", "")

    def test_a_role_that_does_not_exist(self, control_plane, registry, monkeypatch):
        monkeypatch.setitem(ROLES, "Harbourmaster", str(uuid.uuid4()))
        refused = control_plane.assign(control_plane.new_principal(), "Harbourmaster", registry.id, expected=400)
        assert refused["error"]["code"] == "RoleDefinitionDoesNotExist"

    def test_lists_by_scope_and_by_principal(self, control_plane, group, registry):
        principal = control_plane.new_principal()
        at_group = control_plane.assign(principal, "Reader", control_plane.group_id(group))["id"]
        at_registry = control_plane.assign(principal, "AcrPush", registry.id)["id"]

        def listed(scope, filter=None):
            answer = control_plane.expect(
                200, "GET", f"{scope}/providers/Microsoft.Authorization/roleAssignments", ASSIGNMENTS,
                params={"$filter": filter} if filter else {},
            )  # fmt: skip
            mine = [entry for entry in answer["value"] if entry["properties"]["principalId"] == principal.object_id]
            return {entry["id"] for entry in mine}

        group_id = control_plane.group_id(group)
        assert listed(group_id) == {at_group, at_registry}
        assert listed(group_id, "atScope()") == {at_group}
        assert listed(registry.id, "atScope()") == {at_group, at_registry}
        assert listed(group_id, f"principalId eq '{principal.object_id}'") >= {at_group}
        assert listed(registry.id, f"assignedTo('{principal.object_id}')") == {at_group, at_registry}
        assert listed(group_id, f"assignedTo('{uuid.uuid4()}')") == set()

    def test_delete_is_200_then_204(self, control_plane, registry):
        assignment = control_plane.assign(control_plane.new_principal(), "AcrPull", registry.id)
        deleted = control_plane.expect(200, "DELETE", assignment["id"], ASSIGNMENTS)
        assert deleted["name"] == assignment["name"]
        assert control_plane.request("DELETE", assignment["id"], ASSIGNMENTS).status_code == 204
        assert control_plane.request("GET", assignment["id"], ASSIGNMENTS).status_code == 404

    def test_a_name_that_is_no_guid(self, control_plane, registry):
        path = f"{registry.id}/providers/Microsoft.Authorization/roleAssignments/not-a-guid"
        answer = control_plane.request("PUT", path, ASSIGNMENTS, json={"properties": {}})
        assert answer.status_code == 400


class TestPublicDocuments:
    def test_metadata_as_object_and_as_list(self, control_plane):
        one = control_plane.expect(200, "GET", "/metadata/endpoints", "2022-09-01", token=False)
        many = control_plane.expect(200, "GET", "/metadata/endpoints", "2019-05-01", token=False)
        assert one["authentication"]["loginEndpoint"].endswith("/adfs")
        assert one["resourceManager"].rstrip("/") == control_plane.url
        assert one["suffixes"]["acrLoginServer"] == control_plane.ready["login_server_suffix"]
        assert isinstance(many, list)
        assert many[0]["authentication"]["loginEndpoint"] == one["authentication"]["loginEndpoint"]

    def test_a_false_host_header_does_not_reach_any_url(self, control_plane):
        for path in ("/metadata/endpoints?api-version=2022-09-01", "/adfs/.well-known/openid-configuration"):
            answer = control_plane.request("GET", path, token=False, headers={"Host": "evil.example"})
            assert "evil.example" not in answer.text

    @pytest.mark.parametrize("prefix", ["/adfs", "/{tenant}/v2.0"])
    def test_discovery_leads_to_keys_and_a_token(self, control_plane, ready, prefix):
        path = prefix.format(tenant=ready["tenant_id"]) + "/.well-known/openid-configuration"
        document = control_plane.expect(200, "GET", path, token=False)
        assert document["token_endpoint"].startswith(control_plane.url)
        keys = control_plane.session.get(document["jwks_uri"], timeout=60).json()["keys"]
        assert {key["alg"] for key in keys} == {"ES256"}
        assert not any("d" in key for key in keys)
        form = {
            "grant_type": "client_credentials", "client_id": ready["client_id"],
            "client_secret": ready["client_secret"], "scope": f"{control_plane.url}/.default",
        }  # fmt: skip
        assert control_plane.session.post(document["token_endpoint"], data=form, timeout=60).status_code == 200

    @pytest.mark.parametrize(
        ("scope", "lifetime"),
        [
            ("{url}/.default", 3600),
            ("{url}//.default", 3600),
            ("https://containerregistry.azure.net/.default", 600),
            ("https://containerregistry.azure.net//.default", 600),
        ],
    )
    def test_each_audience_gets_a_token(self, control_plane, scope, lifetime):
        answer = control_plane.token_response(scope=scope.format(url=control_plane.url))
        assert answer.status_code == 200
        assert int(answer.json()["expires_in"]) == lifetime
        assert answer.json()["token_type"] == "Bearer"
        assert "no-store" in answer.headers["Cache-Control"]

    @pytest.mark.parametrize(
        ("form", "error"),
        [
            ({"client_secret": "wrong"}, "invalid_client"),
            ({"client_id": str(uuid.uuid4())}, "unauthorized_client"),
            ({"scope": "https://elsewhere.example/.default"}, "invalid_"),
            ({"scope": ""}, "invalid_"),
            ({"grant_type": "magic"}, "unsupported_grant_type"),
            ({"grant_type": ""}, "invalid_request"),
        ],
    )
    def test_token_errors_are_oauth_errors(self, control_plane, form, error):
        answer = control_plane.token_response(**form)
        assert answer.status_code in (400, 401)
        assert answer.json()["error"].startswith(error)
        assert answer.json()["error_description"]

    def test_openapi_describes_what_is_served(self, control_plane):
        document = control_plane.expect(200, "GET", "/openapi.json", token=False)
        assert document["openapi"].startswith("3.")
        assert any("listCredentials" in path for path in document["paths"])

    def test_provider_operations_are_listed(self, control_plane):
        answer = control_plane.expect(
            200, "GET", f"{control_plane.subscription}/providers/Microsoft.ContainerRegistry", GROUPS
        )
        types = {entry["resourceType"]: entry["apiVersions"] for entry in answer["resourceTypes"]}
        assert set(REGISTRY_VERSIONS) <= set(types["registries"])


def test_a_registry_is_in_the_generic_list_without_its_properties(control_plane, registry):
    answer = control_plane.expect(
        200, "GET", f"{control_plane.subscription}/resources", GROUPS,
        params={"$filter": "resourceType eq 'Microsoft.ContainerRegistry/registries'"},
    )  # fmt: skip
    mine = next(entry for entry in answer["value"] if entry["id"] == registry.id)
    assert Registry(control_plane.expect(200, "GET", registry.id, REGISTRIES)).name == mine["name"]
    assert "properties" not in mine
