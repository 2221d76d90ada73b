"""Calls of the control planes, each with its place in the history."""

from __future__ import annotations

import asyncio
import json
import random
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping

from .history import CONTROL_PLANE, Answer, Change, History, Literal, Outcome, Push, Value, Verdict
from .http_client import Broken, Connections, Response
from .system import ControlPlane, System
from .world import Registry

CHANGE_TIMEOUT_SECONDS = 25.0
LOOK_TIMEOUT_SECONDS = 5.0
# A call that broke may still be carried out: a request in a paused process's buffer, a statement behind a blocked proxy or waiting for a
# lock (5 s). It has begun within this time after the last fault of its control plane, or never will; …
SETTLE_SECONDS = 9.0
# … sooner where the call was answered, or its control plane has died: then only a commit can be on its way. What has begun has come to its end
# when no transaction is left that is as old.
SETTLE_COMMIT_SECONDS = 3.0
# After the keys of sign-in were revoked, control planes that have not read the new ones yet sign with the old, and refuse each other's.
KEYS_SECONDS = 20.0
# After a call that broke its caller rests, as people do.
REPOSE_SECONDS = 0.5

REGISTRIES, GROUPS, ASSIGNMENTS, ROLE_DEFINITIONS = "2025-11-01", "2024-11-01", "2022-04-01", "2022-04-01"
ROLES = {
    "Contributor": "b24988ac-6180-42a0-ab88-20f7382dd24c",
    "Reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7",
    "AcrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "AcrPush": "8311e382-0749-4cb8-b61a-304f252e45ec",
}

# What a look at the control plane shows: the values of the registers it was made for; None when nobody answered.
Look = Callable[[], Awaitable[Mapping[str, Value] | None]]


class Refused(Exception):
    """The control plane answered 4xx to a call that is right."""


class Run:
    """What all tasks of a run share: the system, the history and whether it goes on."""

    def __init__(self, system: System, history: History) -> None:
        self.system = system
        self.history = history
        self.is_ending = asyncio.Event()
        # Cleared while writers have to wait, as for a restore of the database.
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.writing = 0
        self.generation = 0
        # Acknowledged pushes, for those who pull.
        self.pushed: list[tuple[Push, Registry]] = []

    @property
    def subscription(self) -> str:
        return f"/subscriptions/{self.system.bootstrap['subscription_id']}"


class Caller:
    """The bootstrap principal, through whichever control plane a call is sent to."""

    def __init__(self, run: Run, randomness: random.Random) -> None:
        self.run = run
        self.random = randomness
        self._connections = Connections(f"127.{randomness.randrange(1, 255)}.{randomness.randrange(1, 255)}.{randomness.randrange(1, 255)}")
        self._token: str | None = None
        # What this caller's changes made of its registers.
        self.values: dict[str, Value] = {}

    def close(self) -> None:
        self._connections.close()

    async def _send(
        self, control_plane: ControlPlane, method: str, path: str, version: str | None, body: object, timeout: float
    ) -> Response:
        query = f"?api-version={version}" if version else ""
        content = json.dumps(body).encode() if body is not None else b""
        host = f"localhost:{control_plane.server.port}"
        until = time.monotonic() + KEYS_SECONDS
        while True:
            if self._token is None:
                self._token = await self._sign_in(control_plane)
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            response = await self._connections.request(control_plane.server, host, method, path + query, headers, content, timeout)
            if response.status != 401 or time.monotonic() > until:
                return response
            # The key that signed the token may have been revoked; nothing was done, so it is asked again.
            self._token = None
            await asyncio.sleep(0.1)

    async def form(self, path: str, form: Mapping[str, str]) -> Response:
        """One try at a form that anybody may send, at any control plane."""
        control_plane = self.any_control_plane()
        return await self._connections.request(
            control_plane.server, f"localhost:{control_plane.server.port}", "POST", path,
            {"Content-Type": "application/x-www-form-urlencoded"}, urllib.parse.urlencode(form).encode(), LOOK_TIMEOUT_SECONDS,
        )  # fmt: skip

    async def _sign_in(self, control_plane: ControlPlane) -> str:
        bootstrap = self.run.system.bootstrap
        form = urllib.parse.urlencode(
            {
                "grant_type": "client_credentials",
                "client_id": bootstrap["client_id"],
                "client_secret": bootstrap["client_secret"],
                "scope": f"{self.run.system.public_url}/.default",
            }
        )
        response = await self._connections.request(
            control_plane.server,
            f"localhost:{control_plane.server.port}",
            "POST",
            f"/{bootstrap['tenant_id']}/oauth2/v2.0/token",
            {"Content-Type": "application/x-www-form-urlencoded"},
            form.encode(),
            LOOK_TIMEOUT_SECONDS,
        )
        if response.status != 200:
            raise Broken(f"sign-in answered {response.status}")
        return response.json()["access_token"]

    def any_control_plane(self) -> ControlPlane:
        return self.random.choice(self.run.system.control_planes)

    async def get(self, path: str, version: str | None = None, control_plane: ControlPlane | None = None) -> Response:
        """One try at one control plane."""
        return await self._send(control_plane or self.any_control_plane(), "GET", path, version, None, LOOK_TIMEOUT_SECONDS)

    async def get_by_post(self, path: str, version: str) -> Response:
        """One try at a POST that changes nothing."""
        return await self._send(self.any_control_plane(), "POST", path, version, None, LOOK_TIMEOUT_SECONDS)

    async def change(
        self,
        what: str,
        method: str,
        path: str,
        version: str | None,
        body: object,
        effects: Callable[[dict], Mapping[str, Value]],
        registers: Mapping[str, Value],
        regions: frozenset[str] | None = None,
    ) -> tuple[Change, dict | None]:
        """One change, sent once. `effects` reads the new values out of the answer; `registers` has those that a call that broke may have
        written, with their new values as far as they are known beforehand. Returns None for the body when there was no answer of success.
        """
        control_plane = self.any_control_plane()
        if self._token is None:
            # A sign-in that breaks is no change.
            await self.signed_in()
        history = self.run.history
        change = Change(history.number(), what, time.monotonic(), 0.0, dict(registers), Outcome.UNKNOWN, by=control_plane.name,
                        regions=regions, generation=self.run.generation)  # fmt: skip
        history.changes.append(change)
        try:
            response = await self._send(control_plane, method, path, version, body, CHANGE_TIMEOUT_SECONDS)
        except Broken:
            change.end = time.monotonic()
            await asyncio.sleep(REPOSE_SECONDS)
            return change, None
        change.end = time.monotonic()
        change.status = response.status
        if response.status >= 500:
            if response.status != 503:
                history.incidents.append((change.end, f"{what} through {control_plane.name}: {response.status} {response.body[:300]!r}"))
            await asyncio.sleep(REPOSE_SECONDS)
            return change, None
        if response.status >= 400:
            change.outcome = Outcome.NOT_COMMITTED
            if response.status != 429:
                raise Refused(f"{what} through {control_plane.name}: {response.status} {response.body[:300]!r}")
            return change, None
        answer = response.json() if response.body else {}
        change.outcome = Outcome.COMMITTED
        change.effects = dict(effects(answer))
        self.values.update(change.effects)
        change.propagation = response.headers.get("x-wharfinger-propagation")
        revision = response.headers.get("x-wharfinger-revision")
        change.revision = int(revision) if revision else None
        change.missing = frozenset(part.strip() for part in response.headers.get("x-wharfinger-missing", "").split(",") if part.strip())
        return change, answer

    async def signed_in(self) -> None:
        """Tries until a control plane gives a token."""
        while self._token is None:
            try:
                self._token = await self._sign_in(self.any_control_plane())
            except Broken:
                await asyncio.sleep(0.2)

    async def look(self, what: str, look: Look) -> Mapping[str, Value] | None:
        """Looks once, and lets the checker hold what was seen against the history."""
        start = time.monotonic()
        try:
            seen = await look()
        except Broken:
            return None
        end = time.monotonic()
        if seen is not None:
            history = self.run.history
            for register, value in seen.items():
                condition = ((Literal(register, value),),)
                history.answers.append(Answer(history.number(), what, CONTROL_PLANE, start, end, condition, Verdict.ACCEPTED))
        return seen

    async def settle(self, change: Change, before: Mapping[str, Value], look: Look) -> Mapping[str, Value]:
        """Finds out what became of a call that broke. Returns the registers as they are."""
        through = next(each for each in self.run.system.control_planes if each.name == change.by)
        starts = through.process.starts
        since = time.monotonic()
        while True:
            start = time.monotonic()
            if through.is_faulty or self.run.system.postgres.is_down:
                since = start
            is_over = change.status is not None or through.process.starts != starts
            is_settled = start - since > (SETTLE_COMMIT_SECONDS if is_over else SETTLE_SECONDS)
            # Asked before the look, which then shows what these transactions did.
            is_settled = is_settled and not await self.run.system.postgres.has_old_transaction()
            try:
                seen = await look()
            except Broken:
                seen = None
            end = time.monotonic()
            if seen is not None and any(seen[register] != before.get(register) for register in seen):
                change.outcome = Outcome.COMMITTED
                change.effects = dict(change.effects) | dict(seen)
                self.values.update(change.effects)
                change.end = end
                return seen
            if seen is not None and is_settled:
                change.outcome = Outcome.NOT_COMMITTED
                return seen
            await asyncio.sleep(0.3)
