"""Who did what, as `az monitor activity-log list` shows it."""

from harness.waiting import wait_until

LIST = ("monitor", "activity-log", "list", "--offset", "1h", "--max-events", "500")


def operations(events):
    return [event["operationName"]["value"] for event in events]


def test_changes_and_refusals_in_a_resource_group(az, cli_of, control_plane):
    group = control_plane.new_group()
    registry = control_plane.new_registry(group)
    az.run("acr", "update", "--name", registry.name, "--tags", "team=docks")
    az.run("acr", "credential", "renew", "--name", registry.name, "--password-name", "password")
    reader = control_plane.new_principal_with("Reader", control_plane.group_id(group))
    cli = cli_of(reader.client_id, reader.client_secret)
    refusal = cli.fails("acr", "update", "--name", registry.name, "--admin-enabled", "false")
    assert "AuthorizationFailed" in refusal

    seen = az.json(*LIST, "--resource-group", group)
    assert {
        "Microsoft.Resources/subscriptions/resourceGroups/write",
        "Microsoft.ContainerRegistry/registries/write",
        "Microsoft.ContainerRegistry/registries/regenerateCredential/action",
        "Microsoft.Authorization/roleAssignments/write",
    } <= set(operations(seen))
    assert seen == sorted(seen, key=lambda event: event["eventTimestamp"], reverse=True)
    renewed = next(event for event in seen if "regenerateCredential" in event["operationName"]["value"])
    assert renewed["resourceId"] == registry.id
    assert renewed["status"]["value"] == "Succeeded"
    assert int(renewed["properties"]["revision"]) > 0
    assert renewed["httpRequest"]["clientIpAddress"]

    refused = az.json(*LIST, "--resource-id", registry.id, "--caller", reader.client_id, "--status", "Failed")
    assert [event["subStatus"]["value"] for event in refused] == ["Forbidden"]
    assert refused[0]["properties"]["errorCode"] == "AuthorizationFailed"
    # Whoever may read the group may read what was done in it, and nothing else.
    own = cli.json(*LIST)
    assert {event["resourceGroupName"].lower() for event in own} == {group.lower()}
    assert operations(cli.json(*LIST, "--correlation-id", renewed["correlationId"])) == operations([renewed])
    assert cli.json(*LIST, "--correlation-id", renewed["correlationId"], "--select", "caller") == [
        {"caller": renewed["caller"]}
    ]


def test_who_was_given_which_role_is_listed(az, control_plane):
    registry = control_plane.new_registry(control_plane.new_group())
    bot = control_plane.new_principal()
    given = ("--assignee", bot.client_id, "--role", "AcrPull", "--scope", registry.id)
    az.run("role", "assignment", "create", *given)
    az.run("role", "assignment", "delete", *given)

    def changes():
        """Those of the bot; az asks for what is older than the second that has begun."""
        listed = az.json("role", "assignment", "list-changelogs")
        found = [change for change in listed if change["principalId"] == bot.object_id]
        return found if len(found) == 2 else None

    of_bot = wait_until(changes, "both changes in the log", interval=0.5)
    assert sorted((change["action"], change["roleName"], change["scope"]) for change in of_bot) == [
        ("Granted", "AcrPull", registry.id),
        ("Revoked", "AcrPull", registry.id),
    ]
    assert {change["principalName"] for change in of_bot} == {bot.client_id}


def test_the_directory_and_sign_ins_are_for_its_administrators(az, cli_of, control_plane, group):
    person = control_plane.new_principal_with("Reader", control_plane.subscription)
    cli = cli_of(person.client_id, person.client_secret)
    of_directory = (*LIST, "--namespace", "Microsoft.Directory")
    created = az.json(*of_directory, "--caller", control_plane.principal.client_id)
    assert "Microsoft.Directory/applications/addPassword/action" in operations(created)
    signed_in = wait_until(
        lambda: az.json(*of_directory, "--caller", person.client_id), "the sign-in in the log", interval=0.5
    )
    assert {event["category"]["value"] for event in signed_in} == {"SignIn"}
    assert cli.json(*of_directory) == []
    assert cli.json(*LIST) != []


def test_no_secret_is_in_the_log(az, control_plane, group):
    registry = control_plane.new_registry(group)
    passwords = control_plane.admin_passwords(registry)
    text = az.run(*LIST, "--output", "json").stdout
    assert "listCredentials" in text
    for value in passwords.values():
        assert str(value) not in text
