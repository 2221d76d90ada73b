"""A secret that ends while a test looks on, whatever the pace of the machine."""

import datetime

from .control_plane import Principal

LIFETIMES_SECONDS = (5, 20, 60)


def with_a_secret_that_ends(control_plane, principal, use, timespec):
    """What `use` gives for the principal with a new secret while that is good, and when it ends.

    The end has the precision `timespec`. A secret that ended before it was used gives way to one that lasts longer.
    """
    for lifetime_seconds in LIFETIMES_SECONDS:
        end = _now() + datetime.timedelta(seconds=lifetime_seconds)
        written = end.isoformat(timespec=timespec).replace("+00:00", "Z")
        end = datetime.datetime.fromisoformat(written)
        try:
            added = control_plane.add_password("applications", principal.application_id, endDateTime=written)
            used = use(Principal(principal.client_id, added["secretText"]))
        except AssertionError:
            if _now() < end:
                raise
            continue
        if _now() < end:
            return used, end
    raise AssertionError(f"a secret was not used within {LIFETIMES_SECONDS[-1]} s")


def _now():
    return datetime.datetime.now(datetime.UTC)
