"""Writers of the ways by which a right comes to a principal: memberships, also nested ones, and a custom role.

Each has a principal of its own whose right comes by one way only, so that each part of the way is a condition of its own.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping

from .api import ASSIGNMENTS, ROLE_DEFINITIONS, ROLES, Run
from .history import Change, Literal, Outcome, Value
from .world import GONE, HERE, ON, HeldCredential, Principal, World
from .writers import PrincipalWriter, Writer

WIDE, NARROW = "wide", "narrow"
ACTIONS = {
    WIDE: ["Microsoft.ContainerRegistry/registries/read", "Microsoft.ContainerRegistry/registries/pull/read"],
    NARROW: ["Microsoft.ContainerRegistry/registries/listCredentials/action"],
}


class SwitchWriter(Writer):
    """Facts that are there or not, switched one by one: how each is switched and looked at is for the subclass."""

    def __init__(self, name: str, run: Run, world: World, seed: str) -> None:
        super().__init__(name, run, world, seed)
        self.switches: dict[str, Value] = {}

    async def step(self) -> None:
        register = self.random.choice(list(self.switches))
        if self.random.random() < 0.1:
            await self.caller.look(f"look at {register}", lambda: self.look_at(register))
        else:
            await self.switch(register)

    async def switch(self, register: str) -> None:
        before, wanted = {register: self.switches[register]}, {register: self.other(self.switches[register])}
        change, answer = await self.send(register, wanted)
        if answer is None and change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, before, lambda: self.look_at(register))
        if change.outcome is Outcome.COMMITTED:
            self.switches |= wanted

    def other(self, value: Value) -> Value:
        return GONE if value == HERE else HERE

    async def send(self, register: str, wanted: Mapping[str, Value]) -> tuple[Change, dict | None]:
        raise NotImplementedError

    async def look_at(self, register: str) -> Mapping[str, Value] | None:
        raise NotImplementedError

    async def observe(self) -> None:
        for register in self.switches:
            await self.caller.look(f"look at {register}", lambda register=register: self.look_at(register))

    def known(self) -> object:
        return self.switches

    def know(self, kept: object) -> None:
        self.switches = copy.deepcopy(kept)


class MembershipWriter(SwitchWriter):
    """A principal in a group in a group that may push: each of the two memberships comes and goes."""

    def __init__(self, run: Run, world: World, seed: str) -> None:
        super().__init__("writer of memberships", run, world, seed)
        self.of: dict[str, tuple[str, str]] = {}

    async def prepare(self) -> None:
        await self.caller.signed_in()
        principal, key_id = await new_principal(self.run, self.world, "grouped")
        inner, outer = [await self.new_group(name) for name in ("inner", "outer")]
        assignment = await assign(self, outer, "Group", ROLES["AcrPush"])
        self.of = {f"member:{inner}:{principal.object_id}": (inner, principal.object_id), f"member:{outer}:{inner}": (outer, inner)}
        for register in self.of:
            self.switches[register] = GONE
            await self.switch(register)
        way = (*(Literal(register, HERE) for register in self.of), assignment)
        hold(self.world, principal, key_id, way)

    async def new_group(self, name: str) -> str:
        body = {"displayName": name, "mailNickname": name, "mailEnabled": False, "securityEnabled": True}
        _, group = await self.caller.change(f"create the group {name}", "POST", "/v1.0/groups", None, body, lambda _: {}, {})
        assert group is not None
        return group["id"]

    async def send(self, register: str, wanted: Mapping[str, Value]) -> tuple[Change, dict | None]:
        group, member = self.of[register]
        path = f"/v1.0/groups/{group}/members"
        if wanted[register] == HERE:
            body = {"@odata.id": f"{self.run.system.public_url}/v1.0/directoryObjects/{member}"}
            return await self.caller.change(f"put {register}", "POST", f"{path}/$ref", None, body, lambda _: wanted, wanted)
        return await self.caller.change(f"take {register}", "DELETE", f"{path}/{member}/$ref", None, None, lambda _: wanted, wanted)

    async def look_at(self, register: str) -> Mapping[str, Value] | None:
        group, member = self.of[register]
        response = await self.caller.get(f"/v1.0/groups/{group}/members")
        if response.status != 200:
            return None
        members = {entry["id"] for entry in response.json()["value"]}
        return {register: HERE if member in members else GONE}


class RoleWriter(SwitchWriter):
    """A custom role that is narrowed and widened again, and a principal that has no other."""

    def __init__(self, run: Run, world: World, seed: str) -> None:
        super().__init__("writer of a custom role", run, world, seed)
        self.role_id = str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    @property
    def register(self) -> str:
        return f"role:{self.role_id}"

    @property
    def path(self) -> str:
        return f"{self.run.subscription}/providers/Microsoft.Authorization/roleDefinitions/{self.role_id}"

    async def prepare(self) -> None:
        await self.caller.signed_in()
        principal, key_id = await new_principal(self.run, self.world, "custom")
        self.switches[self.register] = NARROW
        await self.switch(self.register)
        assignment = await assign(self, principal.object_id, "ServicePrincipal", self.role_id)
        hold(self.world, principal, key_id, (Literal(self.register, WIDE), assignment))

    def other(self, value: Value) -> Value:
        return NARROW if value == WIDE else WIDE

    async def send(self, register: str, wanted: Mapping[str, Value]) -> tuple[Change, dict | None]:
        properties = {
            "roleName": f"Puller {self.role_id}",
            "type": "CustomRole",
            "permissions": [{"actions": ACTIONS[wanted[register]], "notActions": [], "dataActions": [], "notDataActions": []}],
            "assignableScopes": [self.run.subscription],
        }
        return await self.caller.change(
            f"make the role {wanted[register]}", "PUT", self.path, ROLE_DEFINITIONS, {"properties": properties}, lambda _: wanted, wanted
        )

    async def look_at(self, register: str) -> Mapping[str, Value] | None:
        response = await self.caller.get(self.path, ROLE_DEFINITIONS)
        if response.status != 200:
            return None
        actions = response.json()["properties"]["permissions"][0]["actions"]
        return {register: WIDE if sorted(actions) == sorted(ACTIONS[WIDE]) else NARROW}


async def new_principal(run: Run, world: World, seed: str) -> tuple[Principal, str]:
    """A service principal that stays as it is, and the id of its secret."""
    writer = PrincipalWriter(0, run, world, seed)
    await writer.caller.signed_in()
    principal = writer.principal = await writer.create()
    assert principal is not None
    await writer.add_secret()
    writer.caller.close()
    # Nobody's to change, and its right does not come by an assignment of its own.
    world.principals.remove(principal)
    return principal, next(iter(principal.secrets))


async def assign(writer: Writer, principal_id: str, principal_type: str, role_id: str) -> Literal:
    """Gives a role at the group of resources, for good."""
    run = writer.run
    name = str(uuid.UUID(int=writer.random.getrandbits(128), version=4))
    scope = f"{run.subscription}/resourceGroups/{writer.world.registries[0].group}"
    literal = Literal(f"assignment:{name}", HERE)
    properties = {
        "roleDefinitionId": f"{run.subscription}/providers/Microsoft.Authorization/roleDefinitions/{role_id}",
        "principalId": principal_id,
        "principalType": principal_type,
    }
    effects = {literal.register: HERE}
    await writer.caller.change(
        f"assign a role to {principal_id}", "PUT", f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}",
        ASSIGNMENTS, {"properties": properties}, lambda _: effects, effects,
    )  # fmt: skip
    return literal


def hold(world: World, principal: Principal, key_id: str, way: tuple[Literal, ...]) -> None:
    """Lets clients show the secret of a principal whose right comes by this way, at registries that stay."""
    fixed = (Literal(principal.register, ON), Literal(principal.secret_register(key_id), HERE), *way)
    secret = principal.secrets[key_id]
    world.held += [
        HeldCredential(registry, registry.literal, principal.client_id, secret, f"{principal.name} by its way", tuple((part,) for part in fixed))
        for registry in world.lasting()
    ]
