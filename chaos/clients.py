"""Clients of the registries: they log in with credentials of now and of before, show tokens, push and pull, at any node."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import time
import urllib.parse

from .api import Run
from .history import Answer, Pull, Push, Verdict
from .http_client import Broken, Connections, Response
from .system import Node
from .world import Credential, Registry, Token, World, admin_credential, signing_key

TIMEOUT_SECONDS = 6.0
PUSH_TIMEOUT_SECONDS = 12.0
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
REPOSITORIES = ("app", "team/service")
SCOPE = " ".join(f"repository:{name}:pull,push" for name in REPOSITORIES)
# Sizes of a layer in bytes.
SMALLEST, LARGEST = 1_000, 1_000_000


class Client:
    """One client: an address of its own for each connection, because failed logins are counted by address."""

    def __init__(self, run: Run, world: World, seed: str) -> None:
        self.run = run
        self.world = world
        self.random = random.Random(seed)
        self._connections = self._fresh()
        self._failures = 0

    def _fresh(self) -> Connections:
        numbers = [self.random.randrange(1, 255) for _ in range(3)]
        return Connections(f"127.{numbers[0]}.{numbers[1]}.{numbers[2]}")

    async def work(self) -> None:
        while not self.run.is_ending.is_set():
            try:
                await self.step()
            except Broken:
                pass
            await asyncio.sleep(self.random.uniform(0.0, 0.04))
        self.close()

    def close(self) -> None:
        self._connections.close()

    async def step(self) -> None:
        raise NotImplementedError

    def any_node(self, region: str | None = None) -> Node:
        nodes = [node for node in self.run.system.nodes if not node.has_left and region in (None, node.region)]
        return self.random.choice(nodes)

    async def send(
        self,
        node: Node,
        registry: Registry,
        method: str,
        path: str,
        authorization: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Response:
        response = await self._connections.request(
            node.server, registry.login_server, method, path, {"Authorization": authorization} | (headers or {}), body, timeout
        )
        if response.status in (401, 429):
            self._failures += 1
            if self._failures >= 8:
                # A correct secret never waits; what is tested here is not the limit but the answer.
                self._connections.close()
                self._connections = self._fresh()
                self._failures = 0
        return response

    async def ask(
        self, what: str, node: Node, credential: Credential, token: Token | None, method: str, path: str, **options
    ) -> Response | None:
        """A request whose acceptance the checker judges; None when it broke."""
        authorization = basic(credential) if token is None else f"Bearer {token.text}"
        start = time.monotonic()
        response: Response | None = None
        detail = ""
        try:
            response = await self.send(node, credential.registry, method, path, authorization, **options)
        except Broken as broken:
            detail = str(broken)[:120]
        end = time.monotonic()
        history = self.run.history
        status = response.status if response else None
        home = credential.registry.region if credential.registry.region != node.region else None
        if response is not None and status is not None and status >= 400:
            detail = response.body[:200].decode(errors="replace")
        # Where it has to be handed on, what it is handed to may be away.
        if status is not None and status >= 500 and status not in ((503, 507) if home is None else (502, 503, 504, 507)):
            history.incidents.append((end, f"{node.name} answered {status} to {what}: {detail}"))
        kind = "token" if token else "Basic"
        history.answers.append(
            Answer(
                history.number(), f"{what}, {kind}, {credential.what}", node.name, start, end, credential.condition(token),
                verdict_of(response), status, token.minted_at if token else None, home, detail,
            )
        )  # fmt: skip
        return response


def verdict_of(response: Response | None) -> Verdict:
    # 421: each of two regions took the other for the registry's home, for a moment.
    if response is None or response.status >= 500 or response.status == 421:
        return Verdict.NONE
    if response.status in (401, 403, 429):
        return Verdict.REFUSED
    if response.status == 404 and b"there is no registry" in response.body:
        # No registry has this login server; for the caller it is a refusal.
        return Verdict.REFUSED
    return Verdict.ACCEPTED if response.status < 400 or response.status == 404 else Verdict.NONE


def basic(credential: Credential) -> str:
    return "Basic " + base64.b64encode(f"{credential.user}:{credential.secret}".encode()).decode()


class LoginClient(Client):
    """Logs in, mints tokens, shows tokens, with what is good and with what was."""

    async def step(self) -> None:
        choice = self.random.random()
        if choice < 0.3 and self.world.tokens:
            token = self.random.choice(self.world.tokens)
            # At the node that signed it, or at any other.
            await self.show(token, self.any_node())
            return
        credential = self.choose(choice)
        if credential is None:
            return
        node = self.any_node()
        if choice > 0.8:
            await self.mint(credential, node)
        else:
            await self.log_in(credential, node)

    def choose(self, choice: float) -> Credential | None:
        pool = self.world.old if choice < 0.45 and self.world.old else self.world.current()
        if pool is self.world.old:
            # Those just given up are the likeliest to be taken by mistake.
            pool = pool[-10:] if self.random.random() < 0.7 else pool
        return self.random.choice(pool) if pool else None

    async def log_in(self, credential: Credential, node: Node) -> None:
        await self.ask("login", node, credential, None, "GET", "/v2/")

    async def mint(self, credential: Credential, node: Node) -> Token | None:
        query = urllib.parse.urlencode({"service": credential.registry.login_server, "scope": SCOPE})
        registry = credential.registry
        start, incarnation, switched_on = time.monotonic(), registry.incarnation, registry.switched_on
        response = await self.ask("token request", node, credential, None, "GET", f"/oauth2/token?{query}")
        if response is None or response.status != 200:
            return None
        nodes = [each.name for each in self.run.system.nodes if each.region == registry.region]
        signed = tuple(signing_key(name) for name in ([node.name] if node.name in nodes else nodes))
        token = Token(
            response.json()["access_token"], credential, signed, start, (incarnation, registry.last_incarnation),
            # A call that is under way may have switched it on already.
            (switched_on, registry.last_switched_on + 1),
        )  # fmt: skip
        self.world.remember(token)
        return token

    async def show(self, token: Token, node: Node) -> None:
        await self.ask("login", node, token.credential, token, "GET", "/v2/")


class Pusher(Client):
    """Pushes small images, each with a tag of its own."""

    async def step(self) -> None:
        registries = [registry for registry in self.world.registries if registry.exists]
        if not registries:
            await asyncio.sleep(0.1)
            return
        registry = self.random.choice(registries)
        credential = self.world.steady_credential(registry)
        if self.random.random() < 0.4 and registry.passwords:
            credential = admin_credential(registry, self.random.choice(list(registry.passwords)))
        await self.push(credential, self.any_node(registry.region))
        await asyncio.sleep(self.random.uniform(0.0, 0.3))

    async def push(self, credential: Credential, node: Node) -> None:
        repository = self.random.choice(REPOSITORIES)
        layer = self.random.randbytes(int(SMALLEST * (LARGEST / SMALLEST) ** self.random.random()))
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "n": self.random.getrandbits(64)}).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": _descriptor(CONFIG_TYPE, config),
                "layers": [_descriptor(LAYER_TYPE, layer)],
            }
        ).encode()
        tag = f"t{self.random.getrandbits(48):012x}"
        history = self.run.history
        start = time.monotonic()
        push = Push(history.number(), credential.incarnation, repository, tag, digest_of(manifest), node.name, start, start, False)
        history.pushes.append(push)
        for blob in (config, layer):
            # Any node takes the next step of an upload.
            if not await self.push_blob(credential, repository, blob, node):
                push.end = time.monotonic()
                return
            if self.random.random() < 0.3:
                node = self.any_node(credential.registry.region)
        push.node = node.name
        response = await self.ask(
            "push of a manifest", node, credential, None, "PUT", f"/v2/{repository}/manifests/{tag}",
            headers={"Content-Type": MANIFEST_TYPE}, body=manifest, timeout=PUSH_TIMEOUT_SECONDS,
        )  # fmt: skip
        push.end = time.monotonic()
        if response is not None and response.status == 201:
            push.acknowledged = True
            self.run.pushed.append((push, credential.registry))

    async def push_blob(self, credential: Credential, repository: str, blob: bytes, node: Node) -> bool:
        start = await self.ask("begin of an upload", node, credential, None, "POST", f"/v2/{repository}/blobs/uploads/")
        if start is None or start.status != 202:
            return False
        location = _path(start.headers["location"])
        patch = await self.ask(
            "upload", node, credential, None, "PATCH", location,
            headers={"Content-Type": "application/octet-stream"}, body=blob, timeout=PUSH_TIMEOUT_SECONDS,
        )  # fmt: skip
        if patch is None or patch.status != 202:
            return False
        location = _path(patch.headers["location"])
        mark = "&" if "?" in location else "?"
        put = await self.ask(
            "end of an upload", node, credential, None, "PUT", f"{location}{mark}digest={digest_of(blob)}", timeout=PUSH_TIMEOUT_SECONDS
        )
        return put is not None and put.status == 201


class Puller(Client):
    """Pulls what was pushed, whole, and compares every byte."""

    async def step(self) -> None:
        if not self.run.pushed:
            await asyncio.sleep(0.1)
            return
        recent = self.random.random() < 0.5
        push, registry = self.random.choice(self.run.pushed[-10:] if recent else self.run.pushed)
        await self.pull(push, registry, self.any_node(registry.region))

    async def pull(self, push: Push, registry: Registry, node: Node) -> str:
        credential = self.world.steady_credential(registry)
        # The credential is good for the name; the image belongs to one incarnation of it.
        start = time.monotonic()
        found, detail = await self._pull(push, credential, node)
        history = self.run.history
        history.pulls.append(Pull(history.number(), push.number, node.name, start, time.monotonic(), found, detail))
        return found

    async def pull_until_told(self, push: Push, registry: Registry, node: Node, patience_seconds: float) -> None:
        """Pulls again what the node gave no answer about: only an answer says whether the content is there."""
        until = time.monotonic() + patience_seconds
        while await self.pull(push, registry, node) == "none" and time.monotonic() < until:
            await asyncio.sleep(0.3)

    async def _pull(self, push: Push, credential: Credential, node: Node) -> tuple[str, str]:
        path = f"/v2/{push.repository}"
        answer = await self.ask(
            "pull of a manifest", node, credential, None, "GET", f"{path}/manifests/{push.tag}", headers={"Accept": MANIFEST_TYPE}
        )
        if answer is None or answer.status not in (200, 404):
            return "none", ""
        if answer.status == 404:
            return "absent", answer.body[:200].decode(errors="replace")
        if digest_of(answer.body) != push.digest:
            return "different", f"the manifest has {digest_of(answer.body)} and had {push.digest}"
        manifest = json.loads(answer.body)
        for part in [manifest["config"], *manifest["layers"]]:
            answer = await self.ask("pull of a blob", node, credential, None, "GET", f"{path}/blobs/{part['digest']}")
            if answer is None or answer.status not in (200, 404):
                return "none", ""
            if answer.status == 404:
                return "absent", f"{part['digest']}: " + answer.body[:200].decode(errors="replace")
            if digest_of(answer.body) != part["digest"]:
                return "different", f"a blob has {digest_of(answer.body)} and had {part['digest']}"
        return "identical", ""


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _descriptor(media_type: str, content: bytes) -> dict:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _path(location: str) -> str:
    """A location as the next request's path: this client asks which node it likes."""
    if location.startswith("https://"):
        return "/" + location.split("/", 3)[3]
    return location
