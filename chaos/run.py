"""One run: the system comes up, people work while things break, things are mended, and the checker judges."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import random
import re
import shutil
import tempfile
import time
from collections import Counter

from .api import Caller, Run
from .checker import Violation, check
from .clients import LoginClient, Puller, Pusher
from .faults import Injector, Planned
from .history import History
from .http_client import Broken
from .processes import wait_until
from .rights import MembershipWriter, RoleWriter
from .sign_ins import FederatedWriter, KeyWriter, PersonWriter
from .system import Node, Options, System
from .world import Registry, World
from .writers import FIRST_SLOT, PrincipalWriter, RegistryWriter, SlotWriter, Writer, create_scene

GROUP = "chaos"
CONVERGENCE_SECONDS = 120.0
# A question that is no part of the judgement is asked again so long.
PATIENCE_SECONDS = 60.0
# Preparing, mending and looking at everything take no longer; a run that does hangs.
LONGEST_AFTERWARDS = 900.0
# The fleeting ones are deleted and made again.
REGISTRY_NAMES = ("alpha", "beta", "gamma", "delta", "fleeting", "fleetingtoo")
PRINCIPALS = 5
# In the end each of these is asked at every node.
FINAL_CREDENTIALS, FINAL_TOKENS = 60, 30


@dataclasses.dataclass
class Settings:
    """What a run is to be."""

    seed: int
    seconds: float
    binary: pathlib.Path
    options: Options
    planned: list[Planned]
    earlier_binary: pathlib.Path | None = None
    keep_files: bool = False


@dataclasses.dataclass
class Result:
    history: History
    faults: Counter[str]
    left_out: int
    violations: list[Violation]
    directory: pathlib.Path


async def run(settings: Settings) -> Result:
    """Brings everything up, runs, and ends all that it started."""
    # Directly below /tmp: Postgres runs as another user, who has to be able to walk the path.
    directory = pathlib.Path(tempfile.mkdtemp(prefix="wharfinger-chaos-", dir="/tmp"))
    directory.chmod(0o755)
    system = System(settings.binary, directory, random.Random(f"system {settings.seed}"), settings.options)
    history = History()
    injector: Injector | None = None
    try:
        await system.start()
        conductor = Conductor(settings, system, history)
        injector = conductor.injector
        async with asyncio.timeout(settings.seconds + LONGEST_AFTERWARDS):
            await conductor.conduct()
        # Their ids are in their state directories, which go.
        name_nodes(system, history)
    finally:
        await system.stop()
    read_logs(system, history)
    history.write(directory / "history.jsonl")
    violations = check(history)
    if not violations and not settings.keep_files:
        shutil.rmtree(directory, ignore_errors=True)
    return Result(history, injector.done, injector.left_out, violations, directory)


class Conductor:
    """The parts of a run, in their order."""

    def __init__(self, settings: Settings, system: System, history: History) -> None:
        self.settings = settings
        self.system = system
        self.history = history
        self.run = Run(system, history)
        self.world = World(random.Random(f"world {settings.seed}"))
        self.caller = Caller(self.run, random.Random(f"conductor {settings.seed}"))
        self.writers: list[Writer] = []
        self.injector = Injector(self.run, self.writers)
        self.begun = time.monotonic()

    async def conduct(self) -> None:
        await self.prepare()
        self.phase("people begin to work")
        supervising = asyncio.create_task(self.injector.supervise())
        writing = [asyncio.create_task(writer.work()) for writer in self.writers]
        clients = [asyncio.create_task(client.work()) for client in self.clients()]
        begun = time.monotonic()
        await self.injector.carry_out(self.settings.planned)
        await self.injector.finish()
        await asyncio.sleep(max(0.0, begun + self.settings.seconds - time.monotonic()))
        self.phase("all is mended")
        await asyncio.sleep(1.0)
        self.run.is_ending.set()
        await asyncio.gather(*clients)
        await asyncio.gather(*writing)
        self.phase("writers and clients have ended")
        await self.converge()
        self.phase("all nodes have the head")
        await self.look_at_everything()
        self.phase("everything was looked at")
        supervising.cancel()
        await asyncio.wait([supervising])
        if self.injector.ended_by_themselves:
            print(f"  ended by themselves and started again: {dict(self.injector.ended_by_themselves)}")
        self.caller.close()

    def phase(self, what: str) -> None:
        print(f"  {time.monotonic() - self.begun:6.1f} s  {what}", flush=True)

    async def prepare(self) -> None:
        await self.caller.signed_in()
        first = await self.head()
        self.history.heads.append((first, first))
        for node in self.system.nodes:
            self.injector.enrolled(node.name, self.begun)
        region = self.system.regions[0]
        await create_scene(self.run, self.world, GROUP, region)
        seed = self.settings.seed
        for number, name in enumerate(REGISTRY_NAMES):
            of = self.system.regions[number % len(self.system.regions)]
            registry = Registry(f"{name}{seed}", of, GROUP, f"{name}{seed}{self.system.suffix}")
            writer = RegistryWriter(registry, self.run, self.world, f"{name} {seed}", deletes=name.startswith("fleeting"))
            self.world.registries.append(registry)
            self.writers.append(writer)
            await writer.caller.signed_in()
            await writer.create()
            if not writer.deletes:
                writer.slots = (FIRST_SLOT,)
                self.writers.append(SlotWriter(writer, self.run, self.world, f"slot {name} {seed}"))
        for number in range(1, PRINCIPALS + 1):
            self.writers.append(PrincipalWriter(number, self.run, self.world, f"principal {number} {seed}"))
        for kind in (KeyWriter, MembershipWriter, RoleWriter, PersonWriter, FederatedWriter):
            writer = kind(self.run, self.world, f"{kind.__name__} {seed}")
            self.writers.append(writer)
            await writer.prepare()

    def clients(self) -> list[LoginClient | Pusher | Puller]:
        seed = self.settings.seed
        return [
            *(LoginClient(self.run, self.world, f"login {number} {seed}") for number in range(4)),
            *(Pusher(self.run, self.world, f"push {number} {seed}") for number in range(2)),
            Puller(self.run, self.world, f"pull {seed}"),
        ]

    async def nodes(self) -> dict:
        response = await self.caller.get("/config/v1/nodes")
        if response.status != 200:
            raise Broken(f"the list of nodes answered {response.status}")
        return response.json()

    async def head(self) -> int:
        """The newest revision, from the first control plane that answers."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return (await self.nodes())["revision"]
            except Broken:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(0.3)

    async def converge(self) -> None:
        """After the last fault everything comes back by itself and has the head, and changes are complete again."""
        seen: dict = {}

        async def all_have_the_head() -> bool:
            nonlocal seen
            with contextlib.suppress(Broken):
                seen = await self.nodes()
                return all(node["lag"] == 0 and node["isLive"] and not node["rejected"] for node in seen["nodes"]) and all(
                    [await node.is_ready() for node in self.system.nodes if not node.has_left]
                )
            return False

        try:
            await wait_until(all_have_the_head, "all nodes at the head", CONVERGENCE_SECONDS)
        except TimeoutError as error:
            self.history.incidents.append((time.monotonic(), f"{error}: {seen}"))
        # What was only pending or partial is bound by a complete change behind it.
        for writer in self.writers:
            if type(writer) is RegistryWriter and writer.registry.exists:
                while not writer.registry.admin_on:
                    await writer.switch(True)
                await self.renew_until_complete(writer)
        self.history.heads[-1] = (self.history.heads[-1][0], await self.head())

    async def renew_until_complete(self, writer: RegistryWriter) -> None:
        """A busy machine's nodes may be late for a change, not for each."""

        async def is_complete() -> bool:
            await writer.renew("password")
            return self.history.changes[-1].propagation == "complete"

        try:
            await wait_until(is_complete, "a change that is complete", CONVERGENCE_SECONDS)
        except TimeoutError as error:
            last = self.history.changes[-1]
            self.history.incidents.append((last.end, f"{error}: after all was mended, '{last.what}' answered {last.propagation} {last.missing}"))

    async def look_at_everything(self) -> None:
        """The control plane's state, every credential at every node, and every image that was acknowledged."""
        for writer in self.writers:
            writer.caller.close()
            await writer.observe()
            writer.caller.close()
        nodes = [node for node in self.system.nodes if not node.has_left]
        credentials = [*self.world.current(), *self.world.old[-FINAL_CREDENTIALS:]]

        async def ask(node: Node) -> None:
            client = LoginClient(self.run, self.world, f"final {node.name}")
            for credential in credentials:
                with contextlib.suppress(Broken):
                    await client.log_in(credential, node)
            for token in self.world.tokens[-FINAL_TOKENS:]:
                await client.show(token, node)
            client.close()
            puller = Puller(self.run, self.world, "final")
            # Each image at one node of its region: they have one content.
            of_region = [each for each in nodes if each.region == node.region]
            mine = [entry for entry in self.run.pushed if entry[1].region == node.region][of_region.index(node) :: len(of_region)]
            for push, registry in mine:
                if push.registry == registry.literal and registry.exists:
                    await puller.pull_until_told(push, registry, node, PATIENCE_SECONDS)
            puller.close()

        await asyncio.gather(*(ask(node) for node in nodes))


DIVERGED = re.compile(r"copy diverged|panicked at")


def read_logs(system: System, history: History) -> None:
    """What no process may ever say."""
    for file in sorted(system.logs.glob("*.log")):
        for line in file.read_text(errors="replace").splitlines():
            if DIVERGED.search(line):
                history.incidents.append((0.0, f"{file.name}: {line[:300]}"))


def name_nodes(system: System, history: History) -> None:
    """The control plane names nodes by their ids, the rest of the history by their names."""
    names = {node.node_id: node.name for node in system.nodes}
    for node in system.nodes:
        history.nodes[node.name] = node.region
        if system.options.staleness_bound is not None:
            history.bounds[node.name] = float(system.options.staleness_bound)
    for change in history.changes:
        change.missing = frozenset(names.get(part, part) for part in change.missing)


