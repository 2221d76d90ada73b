"""What people know during a run: registries, their passwords, principals and their secrets, of now and of before."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random

from .history import Condition, Literal

HERE, GONE, ON, OFF = "here", "gone", "on", "off"
# Old credentials of each kind that are still tried now and then.
OLD_CREDENTIALS = 12


def signing_key(node: str) -> Literal:
    """That a node is enrolled, and tokens that it signed are good."""
    return Literal(f"signing-key:{node}", HERE)


def shown(secret: str) -> str:
    """A secret's value in the history: enough to tell it from others, and not the secret."""
    return "secret-" + hashlib.sha256(secret.encode()).hexdigest()[:10]


@dataclasses.dataclass
class Registry:
    """A registry's name through its incarnations."""

    name: str
    region: str
    group: str
    login_server: str
    # Which of the registries that had the name this is, and the number of the last one: a restored database brings an earlier one back.
    incarnation: int = 0
    last_incarnation: int = 0
    exists: bool = False
    admin_on: bool = True
    # Which switching on of the account is in force, and the last number given: tokens from before it are dead.
    switched_on: int = 0
    last_switched_on: int = 0
    passwords: dict[str, str] = dataclasses.field(default_factory=dict)
    # Held by whoever switches the account, or renews the second password beside the registry's other writer.
    account: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)

    @property
    def register(self) -> str:
        return f"registry:{self.name}"

    @property
    def literal(self) -> Literal:
        return Literal(self.register, f"{HERE}-{self.incarnation}")

    def admin_register(self) -> str:
        return f"admin:{self.name}#{self.incarnation}"

    def switch_register(self) -> str:
        return f"admin-switched:{self.name}#{self.incarnation}"

    def password_register(self, slot: str) -> str:
        return f"password:{self.name}#{self.incarnation}:{slot}"


@dataclasses.dataclass
class Principal:
    """A service principal, with the registers of all assignments it ever had."""

    name: str
    client_id: str
    object_id: str
    application_id: str
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)
    enabled: bool = True
    # Register of each assignment, and where it gives rights: a registry's literal, or None for every registry.
    assignments: list[tuple[Literal, Registry | None, int]] = dataclasses.field(default_factory=list)

    @property
    def register(self) -> str:
        return f"principal:{self.object_id}"

    def secret_register(self, key_id: str) -> str:
        return f"secret:{key_id}"


@dataclasses.dataclass(frozen=True)
class Credential:
    """A user name and password for one registry, and what must hold for it to be good."""

    registry: Registry
    incarnation: Literal
    user: str
    secret: str
    what: str
    fixed: Condition
    # Whose assignments decide; None: an admin account, which needs none.
    principal: Principal | None = None

    def condition(self, token: Token | None = None) -> Condition:
        """Taken after the answer, so that whatever was made meanwhile is among what may have allowed it."""
        if self.principal is None:
            condition: Condition = ((self.incarnation,), *self.fixed)
            if token is None:
                return condition
            # A token dies when the account is switched off, and stays dead when it is switched on again.
            first, last = token.switches
            register = f"admin-switched:{self.incarnation.register.partition(':')[2]}#{self.incarnation.value.rpartition('-')[2]}"
            return (*condition, tuple(Literal(register, str(number)) for number in range(first, last + 1)), token.signed)
        # A principal may be let in by any registry of the name; its token is for the one that it was made for.
        first, last = (1, self.registry.last_incarnation) if token is None else token.incarnations
        signed = () if token is None else (token.signed,)
        names = tuple(Literal(self.registry.register, f"{HERE}-{number}") for number in range(first, last + 1))
        assigned = tuple(
            literal
            for literal, registry, incarnation in self.principal.assignments
            if registry is None or (registry is self.registry and first <= incarnation <= last)
        )
        return (names, *self.fixed, assigned, *signed)


@dataclasses.dataclass(frozen=True)
class HeldCredential(Credential):
    """Good as long as some facts hold; `shown` is needed beside while it is shown itself, and not by a token from it. For registries that stay."""

    shown: Condition = ()

    def condition(self, token: Token | None = None) -> Condition:
        return ((self.incarnation,), *self.fixed, *(self.shown if token is None else (token.signed,)))


def admin_credential(registry: Registry, slot: str) -> Credential:
    secret = registry.passwords[slot]
    # After a renewal of one slot only that slot's verifier counts, so the slot's register is the fact.
    return Credential(
        registry,
        registry.literal,
        registry.name,
        secret,
        f"admin {slot} of {registry.name}",
        ((Literal(registry.admin_register(), ON),), (Literal(registry.password_register(slot), shown(secret)),)),
    )


def principal_credential(principal: Principal, key_id: str, registry: Registry) -> Credential:
    return Credential(
        registry,
        registry.literal,
        principal.client_id,
        principal.secrets[key_id],
        f"{principal.name} at {registry.name}",
        ((Literal(principal.register, ON),), (Literal(principal.secret_register(key_id), HERE),)),
        principal=principal,
    )


@dataclasses.dataclass
class Token:
    """An access token of a node, from a credential."""

    text: str
    credential: Credential
    # That the signing key of the node is known; of any node of the registry's home, when the request was handed on.
    signed: tuple[Literal, ...]
    minted_at: float
    # The first and the last registry of the name that it may be for.
    incarnations: tuple[int, int]
    # How often the admin account had been switched on, before and after.
    switches: tuple[int, int]


class World:
    """Filled by the writers, read by the clients."""

    def __init__(self, randomness: random.Random) -> None:
        self.random = randomness
        self.registries: list[Registry] = []
        self.principals: list[Principal] = []
        # Never changed: who may always push and pull everywhere.
        self.steady: Principal | None = None
        # Of those whose right comes by other ways than assignments of their own, and of sessions.
        self.held: list[HeldCredential] = []
        self.old: list[Credential] = []
        self.tokens: list[Token] = []

    def retire(self, credential: Credential) -> None:
        """A credential that is good no more, or perhaps not: tried now and then all the same."""
        self.old.append(credential)
        if len(self.old) > OLD_CREDENTIALS * 4:
            self.old.pop(self.random.randrange(len(self.old) // 2))

    def remember(self, token: Token) -> None:
        self.tokens.append(token)
        if len(self.tokens) > 60:
            self.tokens.pop(self.random.randrange(len(self.tokens) - 20))

    def current(self) -> list[Credential]:
        """Every credential that its writer holds for good, or that is good but for an account that is off."""
        credentials: list[Credential] = list(self.held)
        for registry in self.registries:
            if registry.exists:
                credentials += [admin_credential(registry, slot) for slot in registry.passwords]
        for principal in self.principals:
            for key_id in principal.secrets:
                for registry in self.registries:
                    if registry.exists:
                        credentials.append(principal_credential(principal, key_id, registry))
        return credentials

    def lasting(self) -> list[Registry]:
        """The registries that are never deleted."""
        return [registry for registry in self.registries if not registry.name.startswith("fleeting")]

    def steady_credential(self, registry: Registry) -> Credential:
        assert self.steady is not None
        return principal_credential(self.steady, next(iter(self.steady.secrets)), registry)
