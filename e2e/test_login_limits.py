"""Failed logins are limited; whoever has the right secret gets in all the same, so nobody can lock an owner out."""

import pytest

from harness.control_plane import Principal
from harness.evidence import EVIDENCE

ENOUGH_TRIES = 3000


def until_limited(attempt):
    """Fails to log in until the answer is 429; returns that answer."""
    for _ in range(ENOUGH_TRIES):
        response = attempt()
        if response.status_code == 429:
            return response
        assert response.status_code in (400, 401), response.text
    raise AssertionError(f"{ENOUGH_TRIES} failed logins were not limited")


@pytest.mark.parametrize("door", ["/v2/", "/oauth2/token"])
def test_a_node_limits_failed_logins_by_address_and_user(control_plane, registry, at, door):
    passwords = control_plane.admin_passwords(registry)
    guesser = at(registry, registry.name, "a guess that is wrong")
    path = door if door == "/v2/" else f"{door}?service={registry.login_server}"
    limited = until_limited(lambda: guesser.request("GET", path))
    assert int(limited.headers["Retry-After"]) >= 1
    assert limited.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    # The same address, the same user, the right password.
    guesser.password = passwords["password"]
    assert guesser.request("GET", path).status_code == 200
    # Another address was not counted.
    assert at(registry, registry.name, "another wrong guess").login_status() == 401


def test_a_node_limits_an_address_that_tries_many_users(control_plane, registry, at):
    principal = control_plane.new_principal_with("AcrPull", registry.id)
    guesser = at(registry)
    numbers = iter(range(ENOUGH_TRIES))

    def attempt():
        return guesser.request("GET", "/v2/", basic=False, auth=(f"user-{next(numbers)}", "wrong"))

    limited = until_limited(attempt)
    assert int(limited.headers["Retry-After"]) >= 1
    answer = guesser.request("GET", "/v2/", basic=False, auth=(principal.client_id, principal.client_secret))
    assert answer.status_code == 200


def test_sign_in_limits_failed_logins_and_never_the_right_secret(control_plane):
    right = control_plane.new_principal()
    view = control_plane.of(right)
    wrong = Principal(right.client_id, EVIDENCE.secret("a wrong guess at a secret", "a guess"))
    limited = until_limited(lambda: view.token_response(wrong))
    assert int(limited.headers["Retry-After"]) >= 1
    assert limited.json()["error"]
    assert view.token_response(right).status_code == 200
