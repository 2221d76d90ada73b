"""Faults: a plan made from the seed alone, and what each kind does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from .api import Run
from .history import FOREVER, Change, Fault, Outcome
from .processes import wait_until
from .system import ControlPlane, Node
from .world import GONE, signing_key
from .writers import Writer

Target = TypeVar("Target", Node, ControlPlane)

# How long faults last at most, in seconds. Those of nodes outlast a lease (10 s), so that changes are partial.
LENGTHS = (1.0, 3.0, 8.0)
LENGTHS_OF_NODES = (1.0, 3.0, 8.0, 16.0)
# Marks sit this long in a buffer; a node gives a stream up after ten seconds of silence.
HELD_BACK_SECONDS = 8.0
JOIN_SECONDS = 90.0


@dataclasses.dataclass(frozen=True)
class Planned:
    """One fault to come. `target` is taken modulo the number of possible targets, `amount` is from 0 to 1."""

    at: float
    kind: str
    target: int
    seconds: float
    amount: float

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind:<26} target {self.target}, {self.seconds:.1f} s, amount {self.amount:.2f}"


# How often each kind is drawn.
WEIGHTS = {
    "kill-node": 4,
    "stop-node": 2,
    "pause-node": 4,
    "cut-node-link": 3,
    "partition-node": 4,
    "deafen-node": 2,
    "mute-node": 2,
    "delay-node-link": 3,
    "hold-back-node": 1,
    "slow-disk": 3,
    "full-state-disk": 2,
    "full-content-disk": 1,
    "clock-offset": 3,
    "kill-control-plane": 3,
    "stop-control-plane": 2,
    "pause-control-plane": 2,
    "partition-database": 2,
    "cut-database": 2,
    "delay-database": 2,
    "kill-postgres": 2,
    "join-node": 1,
    "remove-node": 1,
    "restore-database": 1,
}


def plan(seed: int, seconds: float, kinds: dict[str, int] | None = None, interval: float = 2.0) -> list[Planned]:
    """The same faults for the same seed, whatever the machine does. The first and the last seconds are quiet."""
    randomness = random.Random(f"faults {seed}")
    weights = kinds or WEIGHTS
    at, planned = 2.0, []
    while at < seconds - 3.0:
        kind = randomness.choices(list(weights), list(weights.values()))[0]
        longest = randomness.choice(LENGTHS_OF_NODES if "node" in kind else LENGTHS)
        length = randomness.uniform(0.3, 1.0) * longest
        planned.append(Planned(round(at, 2), kind, randomness.randrange(60), round(min(length, seconds - at), 2), round(randomness.random(), 3)))
        at += randomness.uniform(0.3, 1.7) * interval
    return planned


class Injector:
    """Carries out a plan. A fault whose target already has one is left out."""

    def __init__(self, run: Run, writers: Sequence[Writer] = ()) -> None:
        self.run = run
        self.writers = writers
        self.done: Counter[str] = Counter()
        self.left_out = 0
        self.ended_by_themselves: Counter[str] = Counter()
        self._tasks: set[asyncio.Task] = set()
        self._restoring = asyncio.Lock()

    async def carry_out(self, planned: list[Planned]) -> None:
        begun = time.monotonic()
        for fault in planned:
            await asyncio.sleep(max(0.0, begun + fault.at - time.monotonic()))
            task = asyncio.create_task(self._one(fault), name=str(fault))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def supervise(self) -> None:
        """Starts again what ended by itself, as any operator's supervisor does; a process that a fault has is the fault's to start."""
        while True:
            for each in [*self.run.system.nodes, *self.run.system.control_planes]:
                if each.process.starts and not each.process.runs and not each.is_faulty:
                    self.ended_by_themselves[each.name] += 1
                    await each.process.start()
            await asyncio.sleep(0.5)

    async def finish(self) -> None:
        """Waits for the faults under way, each of which mends what it broke."""
        while self._tasks:
            await asyncio.gather(*list(self._tasks))

    async def _one(self, planned: Planned) -> None:
        kinds = {
            name.removeprefix("_do_").replace("_", "-"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }
        await kinds[planned.kind](planned)

    def _node(self, planned: Planned) -> Node | None:
        return self._free([node for node in self.run.system.nodes if not node.has_left], planned)

    def _control_plane(self, planned: Planned) -> ControlPlane | None:
        return self._free(self.run.system.control_planes, planned)

    def _free(self, targets: list[Target], planned: Planned) -> Target | None:
        """The target, or the next one that has no fault now."""
        first = planned.target % len(targets)
        for target in targets[first:] + targets[:first]:
            if not target.is_faulty:
                return target
        self.left_out += 1
        return None

    def _begin(self, planned: Planned, target: str, isolates: frozenset[str] = frozenset()) -> Fault:
        fault = Fault(self.run.history.number(), planned.kind, target, time.monotonic(), FOREVER, isolates)
        self.run.history.faults.append(fault)
        self.done[planned.kind] += 1
        return fault

    async def _with(
        self, planned: Planned, target: Node | ControlPlane, break_: Callable[[], Awaitable[None] | None],
        mend: Callable[[], Awaitable[None] | None], isolates: bool = False,
    ) -> None:  # fmt: skip
        """Breaks, waits, mends. The times of an isolation lie within those of the fault."""
        target.is_faulty = True
        try:
            await _maybe(break_())
            fault = self._begin(planned, target.name, frozenset({target.name}) if isolates else frozenset())
            try:
                await asyncio.sleep(planned.seconds)
            finally:
                fault.end = time.monotonic()
                await _maybe(mend())
        finally:
            target.is_faulty = False

    def enrolled(self, node: str, start: float) -> None:
        """It serves: its key was published before. Whoever is behind learns it later."""
        history, literal = self.run.history, signing_key(node)
        history.changes.append(
            Change(history.number(), f"{node} joins", start, time.monotonic(), {literal.register: literal.value}, Outcome.COMMITTED,
                   generation=self.run.generation)
        )  # fmt: skip

    # Nodes

    async def _do_kill_node(self, planned: Planned) -> None:
        if node := self._node(planned):
            await self._with(planned, node, node.process.kill, node.process.start, isolates=True)

    async def _do_stop_node(self, planned: Planned) -> None:
        if node := self._node(planned):
            await self._with(planned, node, lambda: node.process.end(signal.SIGTERM), node.process.start, isolates=True)

    async def _do_pause_node(self, planned: Planned) -> None:
        if node := self._node(planned):
            await self._with(planned, node, node.process.pause, node.process.resume, isolates=True)

    async def _do_cut_node_link(self, planned: Planned) -> None:
        if node := self._node(planned):
            short = dataclasses.replace(planned, seconds=0.0)
            await self._with(short, node, node.link.cut, _nothing)

    async def _do_partition_node(self, planned: Planned) -> None:
        if node := self._node(planned):
            await self._with(planned, node, node.link.block, lambda: self._mend_link(node, planned), isolates=True)

    async def _do_deafen_node(self, planned: Planned) -> None:
        if node := self._node(planned):
            await self._with(planned, node, lambda: node.link.block(forth=False), lambda: self._mend_link(node, planned), isolates=True)

    async def _do_mute_node(self, planned: Planned) -> None:
        if node := self._node(planned):
            await self._with(planned, node, lambda: node.link.block(back=False), lambda: self._mend_link(node, planned), isolates=True)

    def _mend_link(self, node: Node, planned: Planned) -> None:
        """Half of the time what was held back is lost with its connections, half of the time it arrives."""
        if planned.amount < 0.5:
            node.link.cut()
        node.link.open()

    async def _do_delay_node_link(self, planned: Planned) -> None:
        if node := self._node(planned):
            way = planned.amount * 0.8
            await self._with(planned, node, lambda: node.link.delay(way / 2, way), lambda: node.link.delay(0, 0))

    async def _do_hold_back_node(self, planned: Planned) -> None:
        """Nothing leaves the node, and what is sent to it arrives long after: marks that sat in a buffer."""

        def break_() -> None:
            node.link.block(back=False)
            node.link.delay(0.0, HELD_BACK_SECONDS)

        def mend() -> None:
            node.link.cut()
            node.link.delay(0.0, 0.0)
            node.link.open()

        if node := self._node(planned):
            await self._with(planned, node, break_, mend, isolates=True)

    async def _do_slow_disk(self, planned: Planned) -> None:
        if node := self._node(planned):
            await self._with(planned, node, lambda: node.slow_down_disk(0.03 + 0.4 * planned.amount), lambda: node.slow_down_disk(0))

    async def _do_clock_offset(self, planned: Planned) -> None:
        if node := self._node(planned):
            await self._with(planned, node, lambda: node.set_clock((planned.amount - 0.5) * 240), lambda: node.set_clock(0))

    async def _do_full_state_disk(self, planned: Planned) -> None:
        if not self.run.system.has_disks:
            self.left_out += 1
        elif node := self._node(planned):
            filler = node.state / "filler"
            await self._with(planned, node, lambda: _fill(filler), lambda: filler.unlink(missing_ok=True))

    async def _do_full_content_disk(self, planned: Planned) -> None:
        if not self.run.system.has_disks:
            self.left_out += 1
        elif node := self._node(planned):
            filler = self.run.system.directory / f"content-{node.region}" / "filler"
            if not filler.exists():
                await self._with(planned, node, lambda: _fill(filler), lambda: filler.unlink(missing_ok=True))

    async def _do_remove_node(self, planned: Planned) -> None:
        """A node less: removed by an administrator while everybody works, and ended some time later."""
        node = self._node(planned)
        system, history = self.run.system, self.run.history
        if node is None or node.node_id is None or len([each for each in system.nodes if each.region == node.region and not each.has_left]) < 3:
            self.left_out += 1
            return
        node.is_faulty, node.has_left = True, True
        literal = signing_key(node.name)
        change = Change(history.number(), f"remove {node.name}", time.monotonic(), FOREVER, {literal.register: GONE}, Outcome.UNKNOWN,
                        generation=self.run.generation)  # fmt: skip
        history.changes.append(change)
        try:
            said = await system.admin("node", "remove", node.node_id)
        except (RuntimeError, TimeoutError):
            # It broke: it may have happened or not.
            said = ""
        change.end = time.monotonic()
        if (revision := re.search(r"\(revision (\d+)\)", said)) and (outcome := re.search(r"^(complete|partial|pending): (.*)$", said, re.M)):
            change.outcome, change.revision, change.propagation = Outcome.COMMITTED, int(revision[1]), outcome[1]
            change.missing = frozenset(each.node_id for each in system.nodes if each.node_id is not None and each.node_id in outcome[2])
        self._begin(planned, node.name).end = change.end
        await asyncio.sleep(planned.seconds)
        await node.process.kill()

    async def _do_join_node(self, planned: Planned) -> None:
        """A node more: enrolled while everybody works."""
        system = self.run.system
        regions = system.regions
        generation, start = self.run.generation, time.monotonic()
        try:
            node = await system.add_node(regions[planned.target % len(regions)])
        except RuntimeError:
            # Postgres is away, so there is no join token.
            self.left_out += 1
            return
        foreign = self.run.history.foreign_revisions
        foreign[generation] = foreign.get(generation, 0) + 1
        fault = self._begin(planned, node.name)
        # As soon as it serves, its way from the control planes gets long.
        node.is_faulty = True

        async def serves() -> bool:
            if not node.process.runs:
                # It met another fault, such as a full disk, and ended.
                await asyncio.sleep(0.5)
                self.ended_by_themselves[node.name] += 1
                await node.process.start()
            return await node.is_ready()

        with contextlib.suppress(TimeoutError):
            await wait_until(serves, node.name, JOIN_SECONDS, interval=0.01)
            self.enrolled(node.name, start)
            node.link.delay(0.0, 2 * planned.amount)
            await asyncio.sleep(planned.seconds)
        node.link.delay(0.0, 0.0)
        fault.end = time.monotonic()
        node.is_faulty = False

    # Control planes and Postgres

    async def _do_kill_control_plane(self, planned: Planned) -> None:
        if each := self._control_plane(planned):
            await self._with(planned, each, each.process.kill, each.process.start)

    async def _do_stop_control_plane(self, planned: Planned) -> None:
        if each := self._control_plane(planned):
            await self._with(planned, each, lambda: each.process.end(signal.SIGTERM), each.process.start)

    async def _do_pause_control_plane(self, planned: Planned) -> None:
        if each := self._control_plane(planned):
            await self._with(planned, each, each.process.pause, each.process.resume)

    async def _do_partition_database(self, planned: Planned) -> None:
        if each := self._control_plane(planned):

            def mend() -> None:
                if planned.amount < 0.5:
                    each.database.cut()
                each.database.open()

            await self._with(planned, each, each.database.block, mend)

    async def _do_cut_database(self, planned: Planned) -> None:
        if each := self._control_plane(planned):
            await self._with(dataclasses.replace(planned, seconds=0.0), each, each.database.cut, _nothing)

    async def _do_delay_database(self, planned: Planned) -> None:
        if each := self._control_plane(planned):
            way = planned.amount * 0.1
            await self._with(planned, each, lambda: each.database.delay(way, way), lambda: each.database.delay(0, 0))

    async def _do_kill_postgres(self, planned: Planned) -> None:
        postgres = self.run.system.postgres
        if postgres.is_down or self._restoring.locked():
            self.left_out += 1
            return
        postgres.is_down = True
        await postgres.process.kill()
        fault = self._begin(planned, "postgres")
        await asyncio.sleep(min(planned.seconds, 3.0) * planned.amount)
        await postgres.start()
        fault.end = time.monotonic()
        postgres.is_down = False


    async def _do_restore_database(self, planned: Planned) -> None:
        """A dump, some seconds of changes that will be lost, and the dump restored in place. Writers wait for each of the two to end, so that
        it is known what is lost; nodes do not, and half of the time they come back only after further changes."""
        if self._restoring.locked():
            self.left_out += 1
            return
        async with self._restoring:
            run, postgres = self.run, self.run.system.postgres
            dump = run.system.directory / "postgres" / "dump"
            nodes = self._enrolled_nodes()
            async with self._quiet():
                snapshots = [writer.snapshot() for writer in self.writers]
                await postgres.dump(dump)
            await asyncio.sleep(planned.seconds)
            async with self._quiet():
                if nodes != self._enrolled_nodes():
                    # A node that has joined since would be lost with the changes, one that was removed would be back.
                    self.left_out += 1
                    return
                away = [node for node in run.system.nodes if planned.amount < 0.5 and not node.is_faulty]
                for node in away:
                    node.is_faulty = True
                    node.link.block()
                fault = self._begin(planned, "postgres", frozenset(node.name for node in away))
                await self._restore(dump, snapshots)
            await asyncio.sleep(4.0 if away else 0.0)
            fault.end = time.monotonic()
            for node in away:
                node.link.cut()
                node.link.open()
                node.is_faulty = False

    def _enrolled_nodes(self) -> list[str]:
        return [node.name for node in self.run.system.nodes if not node.has_left]

    async def _restore(self, dump: pathlib.Path, snapshots: list[dict[str, str]]) -> None:
        run, history, postgres = self.run, self.run.history, self.run.system.postgres
        start = time.monotonic()
        head = int(await postgres.query("SELECT revision FROM config_head"))
        history.heads[-1] = (history.heads[-1][0], head)
        await postgres.restore(dump)
        run.generation += 1
        head = int(await postgres.query("SELECT revision FROM config_head"))
        history.heads.append((head, head))
        effects: dict[str, str] = {}
        for writer, snapshot in zip(self.writers, snapshots, strict=True):
            effects |= writer.restore(snapshot)
        history.changes.append(
            Change(history.number(), "restore the database", start, time.monotonic(), effects, Outcome.COMMITTED, generation=run.generation)
        )

    @contextlib.asynccontextmanager
    async def _quiet(self) -> AsyncIterator[None]:
        """No writer has a call under way, or one whose outcome is unknown."""
        self.run.may_write.clear()
        try:
            while self.run.writing or self.run.system.postgres.is_down:
                await asyncio.sleep(0.02)
            yield
        finally:
            self.run.may_write.set()


def _fill(file: pathlib.Path) -> None:
    """Takes what is left of a small disk, so that the next write fails."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        left = os.statvfs(file.parent)
        # Never the disk of the machine itself.
        if left.f_blocks * left.f_frsize <= 2 << 30:
            while filler.write(bytes(1 << 16)):
                pass


def _nothing() -> None:
    return None


async def _maybe(result: Awaitable[None] | None) -> None:
    if result is not None:
        await result
