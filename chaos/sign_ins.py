"""Writers of what people and applications sign in with at the control plane, and of the keys that sign-in signs with.

What they get there they exchange at a node, as `az acr login` does, and leave what came of it to the clients: it is good as long as the session or
the federated credential behind it is there, and the key that signed for it.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import re
import time
import urllib.parse
from collections.abc import Mapping

from .api import ROLES, Run
from .history import Change, Literal, Outcome, Value
from .http_client import Broken, Connections
from .rights import assign
from .world import GONE, HERE, OFF, ON, HeldCredential, World, signing_key
from .writers import PrincipalWriter, Writer

AZURE_CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
TOKEN_USER = "00000000-0000-0000-0000-000000000000"
AUDIENCE = "api://AzureADTokenExchange"
EXCHANGE_TIMEOUT_SECONDS = 5.0
# Of each writer so many are shown at once; those from before are tried as old ones.
SESSIONS = 4
# Between two revocations of keys, which end every session of everybody.
ROTATION_SECONDS = 12.0, 20.0


def key_literal(token: str) -> Literal:
    """That the key with which a token is signed is one of sign-in."""
    return Literal(f"sign-in-key:{_part(token, 0)['kid']}", HERE)


def _part(token: str, number: int) -> dict:
    part = token.split(".")[number]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class SessionWriter(Writer):
    """Somebody whose sessions come and go."""

    def __init__(self, name: str, run: Run, world: World, seed: str) -> None:
        super().__init__(name, run, world, seed)
        self.assignment: Literal | None = None
        self.sessions: list[HeldCredential] = []
        self._connections = Connections(f"127.{self.random.randrange(1, 255)}.{self.random.randrange(1, 255)}.1")

    async def ask_for_token(self, form: Mapping[str, str]) -> str | None:
        """An access token of sign-in, from any control plane."""
        scope = {"scope": f"{self.run.system.public_url}/.default"}
        response = await self.caller.form(f"/{self.run.system.bootstrap['tenant_id']}/oauth2/v2.0/token", {**form, **scope})
        return response.json()["access_token"] if response.status == 200 else None

    async def exchange(self, token: str, *facts: Literal) -> None:
        """Makes the token a refresh token of some registry, at some node; it is good as long as these facts hold."""
        assert self.assignment is not None
        registry = self.random.choice(self.world.lasting())
        nodes = [node for node in self.run.system.nodes if not node.has_left and node.region == registry.region]
        node = self.random.choice(nodes)
        form = {"grant_type": "access_token", "service": registry.login_server, "access_token": token}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        response = await self._connections.request(
            node.server, registry.login_server, "POST", "/oauth2/exchange", headers, urllib.parse.urlencode(form).encode(), EXCHANGE_TIMEOUT_SECONDS
        )
        if response.status != 200:
            # The node may not have heard of it yet.
            return
        session = HeldCredential(
            registry, registry.literal, TOKEN_USER, response.json()["refresh_token"], f"{self.name} signed in at {registry.name}",
            tuple((fact,) for fact in (*facts, key_literal(token), self.assignment)), shown=((signing_key(node.name),),),
        )  # fmt: skip
        self.sessions.append(session)
        self.world.held.append(session)
        if len(self.sessions) > SESSIONS:
            self.end(self.sessions[0])

    def end(self, session: HeldCredential) -> None:
        self.sessions.remove(session)
        self.world.held.remove(session)
        self.world.retire(session)

    def end_all(self) -> None:
        for session in list(self.sessions):
            self.end(session)

    async def query(self, statement: str) -> str:
        """What is in the database, once it answers."""
        while True:
            try:
                return await self.run.system.postgres.query(statement)
            except RuntimeError:
                await asyncio.sleep(0.3)


class PersonWriter(SessionWriter):
    """A person who is disabled and enabled, whose password is reset, and whose sessions are revoked. The session's register has the id that
    tokens name and that no call shows: it is read from the database."""

    def __init__(self, run: Run, world: World, seed: str) -> None:
        super().__init__("writer of a person", run, world, seed)
        self.user = ""
        self.user_id = ""
        self.password = self._new_password()
        self.enabled = True

    async def prepare(self) -> None:
        await self.caller.signed_in()
        self.user = "ann@chaos.test"
        body = {
            "userPrincipalName": self.user,
            "displayName": "Ann",
            "mailNickname": "ann",
            "accountEnabled": True,
            "passwordProfile": {"password": self.password, "forceChangePasswordNextSignIn": False},
        }
        change, user = await self.caller.change(
            "create a person", "POST", "/v1.0/users", None, body, lambda answer: {f"user:{answer['id']}": ON}, {}
        )
        assert user is not None
        self.user_id = user["id"]
        self._learn(change, await self.look())
        self.assignment = await assign(self, self.user_id, "User", ROLES["AcrPush"])

    @property
    def path(self) -> str:
        return f"/v1.0/users/{self.user_id}"

    @property
    def enabled_register(self) -> str:
        return f"user:{self.user_id}"

    @property
    def session_register(self) -> str:
        return f"session:{self.user_id}"

    async def step(self) -> None:
        choice = self.random.random()
        if not self.enabled:
            await self.change_sessions("enable", "PATCH", self.path, {"accountEnabled": True})
        elif len(self.sessions) < 2 or choice < 0.4:
            await self.sign_in()
        elif choice < 0.6:
            await self.change_sessions("disable", "PATCH", self.path, {"accountEnabled": False})
        elif choice < 0.8:
            await self.change_sessions("revoke the sessions of", "POST", f"{self.path}/revokeSignInSessions", None)
        elif choice < 0.9:
            await self.reset_password()
        else:
            await self.observe()

    async def sign_in(self) -> None:
        token = await self.ask_for_token(
            {"grant_type": "password", "client_id": AZURE_CLI, "username": self.user, "password": self.password}
        )
        if token is not None:
            # A node may have heard of the session and not yet that the person is enabled again.
            session = Literal(self.session_register, _part(token, 1)["cred"])
            await self.exchange(token, session, Literal(self.enabled_register, ON))

    async def reset_password(self) -> None:
        password = self._new_password()
        body = {"passwordProfile": {"password": password, "forceChangePasswordNextSignIn": False}}
        if await self.change_sessions("reset the password of", "PATCH", self.path, body):
            self.password = password

    async def change_sessions(self, what: str, method: str, path: str, body: object) -> bool:
        """A call that may end all sessions; whether it was carried out."""
        before = await self.look()
        unknown = dict.fromkeys(before, f"unknown-{self.random.getrandbits(32):08x}")
        self.end_all()
        change, answer = await self.caller.change(f"{what} the person", method, path, None, body, lambda _: unknown, unknown)
        if answer is None and change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, before, self.look)
        if change.outcome is Outcome.COMMITTED:
            self._learn(change, await self.look())
        return change.outcome is Outcome.COMMITTED

    def _learn(self, change: Change, now: Mapping[str, Value]) -> None:
        change.effects = dict(change.effects) | dict(now)
        self.caller.values.update(now)
        self.enabled = now[self.enabled_register] == ON

    def _new_password(self) -> str:
        return f"chosen {self.random.getrandbits(80):020x}"

    async def look(self) -> Mapping[str, Value]:
        """Both registers, from the database."""
        row = await self.query(
            f"SELECT p.enabled, u.credential_id FROM users u JOIN principals p USING (object_id) WHERE object_id = '{self.user_id}'"
        )
        enabled, credential_id = row.split("|")
        return {self.enabled_register: ON if enabled == "t" else OFF, self.session_register: credential_id}

    async def look_enabled(self) -> Mapping[str, Value] | None:
        response = await self.caller.get(self.path)
        if response.status != 200:
            return None
        return {self.enabled_register: ON if response.json()["accountEnabled"] else OFF}

    async def observe(self) -> None:
        await self.caller.look("look at the person", self.look_enabled)

    def known(self) -> object:
        return self.enabled, self.password

    def know(self, kept: object) -> None:
        self.end_all()
        self.enabled, self.password = copy.deepcopy(kept)


class FederatedWriter(SessionWriter):
    """An application that trusts a subject of an external issuer for a while, then another."""

    def __init__(self, run: Run, world: World, seed: str) -> None:
        super().__init__("writer of federated credentials", run, world, seed)
        self.application_id = ""
        self.client_id = ""
        # Id and subject of those that are there.
        self.trusted: dict[str, str] = {}
        self.count = 0

    async def prepare(self) -> None:
        await self.caller.signed_in()
        writer = PrincipalWriter(0, self.run, self.world, "federated")
        await writer.caller.signed_in()
        principal = await writer.create()
        writer.caller.close()
        assert principal is not None
        self.world.principals.remove(principal)
        self.application_id, self.client_id = principal.application_id, principal.client_id
        self.assignment = await assign(self, principal.object_id, "ServicePrincipal", ROLES["AcrPull"])
        await self.trust()

    @property
    def path(self) -> str:
        return f"/v1.0/applications/{self.application_id}/federatedIdentityCredentials"

    async def step(self) -> None:
        choice = self.random.random()
        if not self.trusted or (choice < 0.25 and len(self.trusted) < 3):
            await self.trust()
        elif choice < 0.7:
            await self.sign_in()
        elif choice < 0.9:
            await self.distrust(self.random.choice(list(self.trusted)))
        else:
            await self.observe()

    async def trust(self) -> None:
        self.count += 1
        subject = f"repo:team/app:{self.count}"
        body = {"name": f"subject-{self.count}", "issuer": self.run.system.issuer.url, "subject": subject, "audiences": [AUDIENCE]}
        _, answer = await self.caller.change(
            "trust a subject", "POST", self.path, None, body, lambda answer: {f"federated:{answer['id']}": HERE}, {}
        )
        if answer is not None:
            self.trusted[answer["id"]] = subject

    async def distrust(self, credential_id: str) -> None:
        register = f"federated:{credential_id}"
        subject = self.trusted.pop(credential_id)
        for session in [each for each in self.sessions if each.fixed[0][0].register == register]:
            self.end(session)
        gone = {register: GONE}
        change, answer = await self.caller.change(
            "trust a subject no more", "DELETE", f"{self.path}/{credential_id}", None, None, lambda _: gone, gone
        )
        if answer is None and change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, {register: HERE}, lambda: self.look_at(credential_id))
        if change.outcome is Outcome.NOT_COMMITTED:
            self.trusted[credential_id] = subject

    async def sign_in(self) -> None:
        credential_id, subject = self.random.choice(list(self.trusted.items()))
        token = await self.ask_for_token(
            {
                "grant_type": "client_credentials",
                "client_id": self.client_id,
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": self.run.system.issuer.token(subject, AUDIENCE),
            }
        )
        if token is not None:
            await self.exchange(token, Literal(f"federated:{credential_id}", HERE))

    async def look_at(self, credential_id: str) -> Mapping[str, Value] | None:
        response = await self.caller.get(f"{self.path}/{credential_id}")
        if response.status not in (200, 404):
            return None
        return {f"federated:{credential_id}": HERE if response.status == 200 else GONE}

    async def observe(self) -> None:
        for credential_id in list(self.trusted):
            await self.caller.look("look at a federated credential", lambda credential_id=credential_id: self.look_at(credential_id))

    def known(self) -> object:
        return self.trusted

    def know(self, kept: object) -> None:
        self.end_all()
        self.trusted = copy.deepcopy(kept)


class KeyWriter(SessionWriter):
    """An operator who has the keys that sign access tokens replaced at once, as when somebody else may have one."""

    def __init__(self, run: Run, world: World, seed: str) -> None:
        super().__init__("operator of the keys", run, world, seed)
        self.next_at = 0.0

    async def prepare(self) -> None:
        await self.caller.signed_in()
        now = time.monotonic()
        effects = await self.look()
        # They were there before anything else.
        self.run.history.changes.append(
            Change(self.run.history.number(), "make the first key", 0.0, now, effects, Outcome.COMMITTED, generation=self.run.generation)
        )
        self.caller.values.update(effects)
        self._rest()

    def _rest(self) -> None:
        self.next_at = time.monotonic() + self.random.uniform(*ROTATION_SECONDS)

    async def step(self) -> None:
        if time.monotonic() < self.next_at:
            await asyncio.sleep(0.2)
            return
        await self.revoke()
        self._rest()

    async def revoke(self) -> None:
        history = self.run.history
        before = await self.look()
        change = Change(history.number(), "revoke the keys of sign-in", time.monotonic(), 0.0, dict.fromkeys(before, GONE), Outcome.UNKNOWN,
                        by="operator", generation=self.run.generation)  # fmt: skip
        history.changes.append(change)
        output = ""
        try:
            output = await self.run.system.admin(
                "keys", "rotate", "--revoke", "--key-encryption-key-file", str(self.run.system.directory / "key-encryption-key")
            )
        except (RuntimeError, TimeoutError):
            # The database was away before or after; it will tell.
            pass
        now = await self.look()
        change.end = time.monotonic()
        revision = re.search(r"\(revision (\d+)\)", output)
        change.outcome = Outcome.NOT_COMMITTED if now == before else Outcome.COMMITTED
        change.effects = dict.fromkeys(before, GONE) | dict(now)
        change.revision = int(revision.group(1)) if revision else None
        change.propagation = "complete" if "complete:" in output else None
        if change.outcome is Outcome.COMMITTED:
            self.caller.values.update(change.effects)

    async def look(self) -> Mapping[str, Value]:
        """The keys that are there, from the database."""
        kids = await self.query("SELECT kid FROM sign_in_keys")
        return {f"sign-in-key:{kid}": HERE for kid in kids.split()}

    def known(self) -> object:
        return None

    def know(self, kept: object) -> None:
        pass
