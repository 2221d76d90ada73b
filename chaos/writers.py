"""Writers: each owns some registers and changes them one call after the other, never two at once."""

from __future__ import annotations

import asyncio
import copy
import random
import uuid
from collections.abc import Mapping

from .api import ASSIGNMENTS, GROUPS, REGISTRIES, ROLES, Caller, Refused, Run
from .history import Change, Literal, Outcome, Value
from .http_client import Broken
from .world import GONE, HERE, OFF, ON, Principal, Registry, World, admin_credential, principal_credential, shown

FIRST_SLOT, SECOND_SLOT = SLOTS = ("password", "password2")
SECRETS_MAXIMUM = 3


class Writer:
    """What all writers have: a caller, the world, and a beat of their own."""

    def __init__(self, name: str, run: Run, world: World, seed: str) -> None:
        self.name = name
        self.run = run
        self.world = world
        self.random = random.Random(seed)
        self.caller = Caller(run, self.random)

    async def work(self) -> None:
        await self.caller.signed_in()
        while not self.run.is_ending.is_set():
            await self.run.may_write.wait()
            self.run.writing += 1
            try:
                await self.step()
            except Refused as refused:
                self.run.history.incidents.append((asyncio.get_running_loop().time(), str(refused)))
            except Broken:
                # A look that broke: it is made again when there is need.
                pass
            finally:
                self.run.writing -= 1
            await asyncio.sleep(self.random.uniform(0.0, 0.1))
        self.caller.close()

    async def step(self) -> None:
        raise NotImplementedError

    async def observe(self) -> None:
        """Looks at all that it owns, as it stands."""

    def snapshot(self) -> dict[str, Value]:
        """Its registers as they are between two changes; what it knows is kept beside them."""
        self.kept = copy.deepcopy(self.known())
        return dict(self.caller.values)

    def restore(self, snapshot: Mapping[str, Value]) -> dict[str, Value]:
        """The database is again as it was at the snapshot: what was made since is gone. Returns its registers as they are now."""
        self.know(self.kept)
        self.caller.values = {register: snapshot.get(register, GONE) for register in self.caller.values}
        return dict(self.caller.values)

    def known(self) -> object:
        """What it has to know to go on, apart from the registers."""
        raise NotImplementedError

    def know(self, kept: object) -> None:
        raise NotImplementedError


class RegistryWriter(Writer):
    """One registry: renews its passwords, switches its admin account; may delete it and make it again."""

    def __init__(self, registry: Registry, run: Run, world: World, seed: str, deletes: bool) -> None:
        super().__init__(f"writer of {registry.name}", run, world, seed)
        self.registry = registry
        self.deletes = deletes
        # Those that this writer renews and looks at; another may have the second one.
        self.slots: tuple[str, ...] = SLOTS

    @property
    def path(self) -> str:
        group = f"{self.run.subscription}/resourceGroups/{self.registry.group}"
        return f"{group}/providers/Microsoft.ContainerRegistry/registries/{self.registry.name}"

    @property
    def regions(self) -> frozenset[str]:
        return frozenset({self.registry.region})

    async def step(self) -> None:
        if not self.registry.exists:
            await self.create()
            return
        choice = self.random.random()
        if self.deletes and choice < 0.15:
            await self.delete()
        elif choice < 0.25:
            await self.switch(not self.registry.admin_on)
        elif choice < 0.32:
            await self.observe()
        elif self.registry.admin_on:
            await self.renew(self.random.choice(self.slots))
        else:
            await self.switch(True)

    async def create(self) -> None:
        registry = self.registry
        before = registry.incarnation
        registry.last_incarnation += 1
        registry.incarnation = registry.last_incarnation
        registry.last_switched_on += 1
        registry.switched_on = registry.last_switched_on
        initial = {
            registry.register: registry.literal.value,
            registry.admin_register(): ON,
            registry.switch_register(): str(registry.switched_on),
        }
        body = {"location": registry.region, "sku": {"name": "Basic"}, "properties": {"adminUserEnabled": True}}
        change, answer = await self.caller.change(
            f"create {registry.name}", "PUT", self.path, REGISTRIES, body, lambda _: initial, initial, self.regions
        )
        if answer is None:
            if change.outcome is Outcome.UNKNOWN:
                await self.caller.settle(change, {registry.register: GONE}, self.look_existence)
            if change.outcome is Outcome.NOT_COMMITTED:
                registry.incarnation = before
                return
        registry.admin_on = True
        await self.learn_passwords(change)
        registry.exists = True

    async def learn_passwords(self, creation: Change) -> None:
        """The passwords that a creation made are read afterwards; they were made by it."""
        while True:
            try:
                response = await self.caller.get_by_post(f"{self.path}/listCredentials", REGISTRIES)
                if response.status == 200:
                    break
            except Broken:
                pass
            await asyncio.sleep(0.3)
        self.registry.passwords = {entry["name"]: entry["value"] for entry in response.json()["passwords"]}
        made = {self.registry.password_register(slot): shown(value) for slot, value in self.registry.passwords.items()}
        creation.effects = dict(creation.effects) | made
        self.caller.values.update(made)

    async def delete(self) -> None:
        registry = self.registry
        # Assignments at its scope go with it; nobody can tell, because they were for this incarnation.
        effects = {registry.register: GONE}
        for slot in registry.passwords:
            self.world.retire(admin_credential(registry, slot))
        registry.exists = False
        change, answer = await self.caller.change(
            f"delete {registry.name}", "DELETE", self.path, REGISTRIES, None, lambda _: effects, effects, self.regions
        )
        if answer is None and change.outcome is Outcome.UNKNOWN:
            seen = await self.caller.settle(change, {registry.register: registry.literal.value}, self.look_existence)
            registry.exists = seen[registry.register] != GONE
        elif answer is None:
            registry.exists = True

    async def switch(self, on: bool) -> None:
        # Passwords are only shown while the account is on: whoever may have to look for one keeps it on.
        async with self.registry.account:
            await self.switch_now(on)

    async def switch_now(self, on: bool) -> None:
        registry = self.registry
        effects = {registry.admin_register(): ON if on else OFF}
        before = {registry.admin_register(): ON if registry.admin_on else OFF}
        if on:
            registry.last_switched_on += 1
            effects[registry.switch_register()] = str(registry.last_switched_on)
        body = {"properties": {"adminUserEnabled": on}}
        change, answer = await self.caller.change(
            f"switch admin of {registry.name} {ON if on else OFF}", "PATCH", self.path, REGISTRIES, body, lambda _: effects, effects, self.regions
        )
        if answer is None and change.outcome is Outcome.UNKNOWN:
            seen = await self.caller.settle(change, before, self.look_switch)
            on = seen[registry.admin_register()] == ON
        elif answer is None:
            return
        if change.outcome is Outcome.COMMITTED:
            registry.admin_on = on
            registry.switched_on = registry.last_switched_on if on else registry.switched_on

    async def renew(self, slot: str) -> None:
        registry = self.registry
        register = registry.password_register(slot)
        before = {register: shown(registry.passwords[slot])}
        self.world.retire(admin_credential(registry, slot))
        change, answer = await self.caller.change(
            f"renew {slot} of {registry.name}", "POST", f"{self.path}/regenerateCredential", REGISTRIES, {"name": slot},
            lambda answer: {register: shown(_password(answer, slot))}, {register: f"unknown-{self.random.getrandbits(32):08x}"}, self.regions,
        )  # fmt: skip
        if answer is not None:
            registry.passwords[slot] = _password(answer, slot)
        elif change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, before, lambda: self.look_password(slot))

    def known(self) -> object:
        registry = self.registry
        return registry.incarnation, registry.exists, registry.admin_on, registry.switched_on, registry.passwords

    def know(self, kept: object) -> None:
        registry = self.registry
        for slot in registry.passwords:
            if registry.exists:
                self.world.retire(admin_credential(registry, slot))
        registry.incarnation, registry.exists, registry.admin_on, registry.switched_on, registry.passwords = copy.deepcopy(kept)

    # Looks

    async def look_existence(self) -> Mapping[str, Value] | None:
        response = await self.caller.get(self.path, REGISTRIES)
        if response.status not in (200, 404):
            return None
        return {self.registry.register: self.registry.literal.value if response.status == 200 else GONE}

    async def look_switch(self) -> Mapping[str, Value] | None:
        response = await self.caller.get(self.path, REGISTRIES)
        if response.status != 200:
            return None
        return {self.registry.admin_register(): ON if response.json()["properties"]["adminUserEnabled"] else OFF}

    async def look_password(self, slot: str) -> Mapping[str, Value] | None:
        response = await self.caller.get_by_post(f"{self.path}/listCredentials", REGISTRIES)
        if response.status != 200:
            return None
        password = _password(response.json(), slot)
        self.registry.passwords[slot] = password
        return {self.registry.password_register(slot): shown(password)}

    async def observe(self) -> None:
        await self.caller.look(f"look at {self.registry.name}", self.look_existence)
        if not self.registry.exists:
            return
        await self.caller.look(f"look at the account of {self.registry.name}", self.look_switch)
        if self.registry.admin_on:
            for slot in self.slots:
                await self.caller.look(f"look at {slot} of {self.registry.name}", lambda slot=slot: self.look_password(slot))


class SlotWriter(RegistryWriter):
    """The second password of a registry that is never deleted: renewed beside whatever its other writer does to the same document."""

    def __init__(self, of: RegistryWriter, run: Run, world: World, seed: str) -> None:
        super().__init__(of.registry, run, world, seed, deletes=False)
        self.name = f"writer of {SECOND_SLOT} of {self.registry.name}"
        # Made with the registry, by the other writer: a restore may go back to before the first change of this one.
        self.caller.values[self.registry.password_register(SECOND_SLOT)] = shown(self.registry.passwords[SECOND_SLOT])

    async def step(self) -> None:
        if not self.registry.admin_on:
            await asyncio.sleep(0.05)
        elif self.random.random() < 0.9:
            async with self.registry.account:
                if self.registry.admin_on:
                    await self.renew(SECOND_SLOT)
        else:
            await self.observe()

    async def observe(self) -> None:
        if self.registry.exists and self.registry.admin_on:
            await self.caller.look(f"look at {SECOND_SLOT} of {self.registry.name}", lambda: self.look_password(SECOND_SLOT))

    def known(self) -> object:
        return self.registry.passwords.get(SECOND_SLOT)

    def know(self, kept: object) -> None:
        assert isinstance(kept, str)
        self.registry.passwords[SECOND_SLOT] = kept


class PrincipalWriter(Writer):
    """One principal at a time: its secrets, whether it is enabled, its assignments; deletes it now and then and makes another."""

    def __init__(self, number: int, run: Run, world: World, seed: str) -> None:
        super().__init__(f"writer of principal {number}", run, world, seed)
        self.number = number
        self.count = 0
        self.principal: Principal | None = None
        # Every principal that it ever made, by object id.
        self.made: dict[str, Principal] = {}
        # The path of each assignment that is there, and what each that ever was is: role and scope.
        self.assigned: dict[str, str] = {}
        self.held: dict[str, tuple[str, str]] = {}

    async def step(self) -> None:
        principal = self.principal
        if principal is None:
            self.principal = await self.create()
            return
        here = [entry for entry in principal.assignments if entry[0].register in self.assigned]
        choice = self.random.random()
        if not principal.enabled:
            await self.enable(True)
        elif not principal.secrets:
            await self.add_secret()
        elif choice < 0.25 and len(principal.secrets) < SECRETS_MAXIMUM:
            await self.add_secret()
        elif choice < 0.45:
            await self.remove_secret(self.random.choice(list(principal.secrets)))
        elif choice < 0.52:
            await self.enable(False)
        elif choice < 0.55:
            await self.delete()
        elif choice < 0.62:
            await self.observe()
        elif here and (choice < 0.8 or len(here) > 3):
            await self.unassign(self.random.choice(here))
        else:
            await self.assign()

    async def create(self) -> Principal | None:
        self.count += 1
        self.assigned = {}
        name = f"principal-{self.number}-{self.count}"
        _, application = await self.caller.change("create application", "POST", "/v1.0/applications", None, {"displayName": name}, _nothing, {})
        if application is None:
            return None
        body = {"appId": application["appId"], "accountEnabled": True}
        _, created = await self.caller.change(
            f"create {name}", "POST", "/v1.0/servicePrincipals", None, body, lambda answer: {f"principal:{answer['id']}": ON}, {}
        )
        if created is None:
            return None
        principal = Principal(name, application["appId"], created["id"], application["id"])
        self.made[principal.object_id] = principal
        self.world.principals.append(principal)
        return principal

    async def add_secret(self) -> None:
        principal = self._principal()
        body = {"passwordCredential": {"displayName": "chaos"}}
        _, answer = await self.caller.change(
            f"add a secret to {principal.name}", "POST", f"/v1.0/applications/{principal.application_id}/addPassword", None, body,
            lambda answer: {principal.secret_register(answer["keyId"]): HERE}, {},
        )  # fmt: skip
        if answer is not None:
            principal.secrets[answer["keyId"]] = answer["secretText"]

    async def remove_secret(self, key_id: str) -> None:
        principal = self._principal()
        register = principal.secret_register(key_id)
        for registry in self.world.registries:
            self.world.retire(principal_credential(principal, key_id, registry))
        secret = principal.secrets.pop(key_id)
        path = f"/v1.0/applications/{principal.application_id}/removePassword"
        gone = {register: GONE}
        change, answer = await self.caller.change(
            f"remove a secret of {principal.name}", "POST", path, None, {"keyId": key_id}, lambda _: gone, gone
        )
        if answer is None and change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, {register: HERE}, lambda: self.look_secret(key_id))
        if change.outcome is Outcome.NOT_COMMITTED:
            principal.secrets[key_id] = secret

    async def enable(self, enabled: bool) -> None:
        principal = self._principal()
        effects = {principal.register: ON if enabled else OFF}
        before = {principal.register: OFF if enabled else ON}
        path = f"/v1.0/servicePrincipals/{principal.object_id}"
        change, answer = await self.caller.change(
            f"switch {principal.name} {ON if enabled else OFF}", "PATCH", path, None, {"accountEnabled": enabled}, lambda _: effects, effects
        )
        if answer is None and change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, before, self.look_enabled)
        if change.outcome is Outcome.COMMITTED:
            principal.enabled = enabled

    async def delete(self) -> None:
        principal = self._principal()
        self.principal = None
        effects = {principal.register: GONE} | {literal.register: GONE for literal, _, _ in principal.assignments}
        path = f"/v1.0/servicePrincipals/{principal.object_id}"
        change, answer = await self.caller.change(
            f"delete {principal.name}", "DELETE", path, None, None, lambda _: effects, {principal.register: GONE}
        )
        if answer is None and change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, {principal.register: ON}, self.look_enabled_of(principal))
        if change.outcome is Outcome.NOT_COMMITTED:
            self.principal = principal
            return
        self.forget(principal)

    async def assign(self) -> None:
        principal = self._principal()
        registry = self.random.choice(self.world.registries)
        at_registry = registry.exists and not registry.name.startswith("fleeting") and self.random.random() < 0.7
        scope = f"{self.run.subscription}/resourceGroups/{registry.group}"
        if at_registry:
            scope = f"{scope}/providers/Microsoft.ContainerRegistry/registries/{registry.name}"
        name = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        path = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}"
        literal = Literal(f"assignment:{name}", HERE)
        role = self.random.choice(list(ROLES))
        if any(self.held[register] == (role, scope) for register in self.assigned):
            # A principal has a role at a scope once.
            return
        # In the list before the call begins, so that a request that it allows finds it there.
        principal.assignments.append((literal, registry if at_registry else None, registry.incarnation))
        self.held[literal.register] = (role, scope)
        effects = {literal.register: HERE}
        change, answer = await self.caller.change(
            f"assign {role} to {principal.name} at {registry.name if at_registry else 'the group'}",
            "PUT", path, ASSIGNMENTS, assignment_body(self.run, role, principal), lambda _: effects, effects,
        )  # fmt: skip
        if answer is None and change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, {literal.register: GONE}, lambda: self.look_assignment(literal, path))
        if change.outcome is Outcome.COMMITTED:
            self.assigned[literal.register] = path

    async def unassign(self, entry: tuple[Literal, Registry | None, int]) -> None:
        literal = entry[0]
        path = self.assigned.pop(literal.register)
        gone = {literal.register: GONE}
        change, answer = await self.caller.change(
            f"take {literal.register} from {self._principal().name}", "DELETE", path, ASSIGNMENTS, None, lambda _: gone, gone
        )
        if answer is None and change.outcome is Outcome.UNKNOWN:
            await self.caller.settle(change, {literal.register: HERE}, lambda: self.look_assignment(literal, path))
        if change.outcome is Outcome.NOT_COMMITTED:
            self.assigned[literal.register] = path

    def known(self) -> object:
        principal = self.principal
        state = (principal.object_id, principal.secrets, principal.enabled) if principal else None
        return state, self.assigned, self.held

    def know(self, kept: object) -> None:
        state, self.assigned, self.held = copy.deepcopy(kept)
        if self.principal is not None:
            self.forget(self.principal)
        self.principal = None
        if state is not None:
            principal = self.principal = self.made[state[0]]
            principal.secrets, principal.enabled = state[1], state[2]
            self.world.principals.append(principal)

    def forget(self, principal: Principal) -> None:
        for key_id in principal.secrets:
            for registry in self.world.registries:
                self.world.retire(principal_credential(principal, key_id, registry))
        self.world.principals.remove(principal)

    def _principal(self) -> Principal:
        assert self.principal is not None
        return self.principal

    # Looks

    async def look_secret(self, key_id: str) -> Mapping[str, Value] | None:
        principal = self._principal()
        response = await self.caller.get(f"/v1.0/applications/{principal.application_id}")
        if response.status != 200:
            return None
        key_ids = {entry["keyId"] for entry in response.json()["passwordCredentials"]}
        return {principal.secret_register(key_id): HERE if key_id in key_ids else GONE}

    def look_enabled_of(self, principal: Principal):
        async def look() -> Mapping[str, Value] | None:
            response = await self.caller.get(f"/v1.0/servicePrincipals/{principal.object_id}")
            if response.status == 404:
                return {principal.register: GONE}
            if response.status != 200:
                return None
            return {principal.register: ON if response.json()["accountEnabled"] else OFF}

        return look

    async def look_enabled(self) -> Mapping[str, Value] | None:
        return await self.look_enabled_of(self._principal())()

    async def look_assignment(self, literal: Literal, path: str) -> Mapping[str, Value] | None:
        response = await self.caller.get(path, ASSIGNMENTS)
        if response.status not in (200, 404):
            return None
        return {literal.register: HERE if response.status == 200 else GONE}

    async def observe(self) -> None:
        principal = self.principal
        if principal is None:
            return
        await self.caller.look(f"look at {principal.name}", self.look_enabled)
        for key_id in list(principal.secrets):
            await self.caller.look(f"look at a secret of {principal.name}", lambda key_id=key_id: self.look_secret(key_id))
        for literal, _, _ in principal.assignments:
            if literal.register in self.assigned:
                path = self.assigned[literal.register]
                await self.caller.look("look at an assignment", lambda literal=literal, path=path: self.look_assignment(literal, path))


async def create_scene(run: Run, world: World, group: str, region: str) -> None:
    """The group that all registries are in, and the principal that never changes."""
    caller = Caller(run, random.Random("scene"))
    await caller.signed_in()
    path = f"{run.subscription}/resourceGroups/{group}"
    await caller.change("create the group", "PUT", path, GROUPS, {"location": region}, _nothing, {})
    writer = PrincipalWriter(0, run, world, "steady")
    await writer.caller.signed_in()
    writer.principal = world.steady = await writer.create()
    assert world.steady is not None
    await writer.add_secret()
    literal = Literal(f"assignment:{uuid.uuid4()}", HERE)
    world.steady.assignments.append((literal, None, 0))
    effects = {literal.register: HERE}
    path = f"{run.subscription}/providers/Microsoft.Authorization/roleAssignments/{literal.register.partition(':')[2]}"
    body = assignment_body(run, "AcrPush", world.steady)
    await caller.change("assign AcrPush to the steady principal", "PUT", path, ASSIGNMENTS, body, lambda _: effects, effects)
    # Its secrets are no writer's to change.
    world.principals.remove(world.steady)
    writer.caller.close()
    caller.close()


def assignment_body(run: Run, role: str, principal: Principal) -> dict:
    definition = f"{run.subscription}/providers/Microsoft.Authorization/roleDefinitions/{ROLES[role]}"
    return {
        "properties": {"roleDefinitionId": definition, "principalId": principal.object_id, "principalType": "ServicePrincipal"}
    }


def _password(answer: dict, slot: str) -> str:
    return next(entry["value"] for entry in answer["passwords"] if entry["name"] == slot)


def _nothing(_: dict) -> dict[str, Value]:
    return {}
