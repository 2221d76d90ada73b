"""What the proxy does to what passes; and that a seed gives the same faults each time."""

import asyncio
import random

import pytest

from chaos.faults import WEIGHTS, Injector, plan
from chaos.processes import free_port
from chaos.proxy import Proxy


class Scene:
    """A server that says back what it hears, and a proxy before it."""

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.echo, "127.0.0.1", 0)
        target = self.server.sockets[0].getsockname()[1]
        self.proxy = Proxy("echo", free_port(random.Random()), lambda: [target])
        await self.proxy.start()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()
        await self.proxy.stop()
        self.server.close()

    @staticmethod
    async def echo(reader, writer):
        while piece := await reader.read(1000):
            writer.write(piece)
        writer.close()

    async def ask(self, text, timeout=60.0):
        self.writer.write(text)
        return await asyncio.wait_for(self.reader.readexactly(len(text)), timeout)


def in_scene(story):
    async def tell():
        async with Scene() as scene:
            await story(scene)

    asyncio.run(tell())


def test_what_is_sent_passes():
    async def story(scene):
        assert await scene.ask(b"hello") == b"hello"

    in_scene(story)


@pytest.mark.parametrize("forth, back", [(True, True), (True, False), (False, True)])
def test_what_is_blocked_waits_and_passes_afterwards(forth, back):
    async def story(scene):
        await scene.ask(b"first")
        scene.proxy.block(forth, back)
        with pytest.raises(TimeoutError):
            await scene.ask(b"second", 0.2)
        scene.proxy.open()
        assert await asyncio.wait_for(scene.reader.readexactly(6), 60) == b"second"

    in_scene(story)


def test_what_is_delayed_is_late_and_in_order():
    async def story(scene):
        await scene.ask(b"first")
        scene.proxy.delay(0.0, 0.3)
        begun = asyncio.get_running_loop().time()
        assert await scene.ask(b"second") == b"second"
        assert asyncio.get_running_loop().time() - begun >= 0.3
        scene.proxy.delay(0.0, 0.0)
        assert await scene.ask(b"third") == b"third"

    in_scene(story)


def test_a_connection_that_is_cut_is_reset():
    async def story(scene):
        await scene.ask(b"first")
        scene.proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await scene.ask(b"second")

    in_scene(story)


def test_a_seed_gives_the_same_faults_each_time():
    assert plan(7, 60) == plan(7, 60)
    assert plan(7, 60) != plan(8, 60)
    assert all(fault.at + fault.seconds <= 60 for fault in plan(7, 60))


def test_every_kind_of_fault_can_be_done():
    assert all(hasattr(Injector, "_do_" + kind.replace("-", "_")) for kind in WEIGHTS)
