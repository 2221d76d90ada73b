"""A TCP proxy between two of our processes that can delay, block and cut what passes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
from collections.abc import Callable, Sequence

CHUNK_BYTES = 64 * 1024


@dataclasses.dataclass
class Way:
    """What happens to the bytes of one direction."""

    delay: float = 0.0
    blocked: bool = False


class Proxy:
    """Listens on a port of 127.0.0.1 and passes each connection on to the first of its targets that takes it."""

    def __init__(self, name: str, port: int, targets: Callable[[], Sequence[int]]) -> None:
        self.name = name
        self.port = port
        # From the side that connects, and back to it.
        self.forth = Way()
        self.back = Way()
        self._targets = targets
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._opened = asyncio.Event()
        self._opened.set()
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK_BYTES)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_blocked(self) -> bool:
        return self.forth.blocked or self.back.blocked

    def block(self, forth: bool = True, back: bool = True) -> None:
        """From now on nothing passes; connections stay open and say nothing, as when a cable is pulled."""
        self.forth.blocked, self.back.blocked = forth, back
        self._opened.clear()

    def open(self) -> None:
        """What was held back passes on."""
        self.forth.blocked = self.back.blocked = False
        self._opened.set()

    def delay(self, forth: float, back: float) -> None:
        self.forth.delay, self.back.delay = forth, back

    def cut(self) -> None:
        """Ends every connection with a reset, on both sides."""
        for pair in list(self._pairs):
            for writer in pair:
                _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._pass(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            _reset(writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._wait(self.forth)
        target = None
        for port in self._targets():
            with contextlib.suppress(OSError):
                target = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK_BYTES)
                break
        if target is None:
            return
        pair = (writer, target[1])
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, target[1], self.forth))
                group.create_task(self._pump(target[0], writer, self.back))
        except* OSError:
            pass
        finally:
            self._pairs.discard(pair)
            for side in pair:
                _reset(side)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Each piece leaves its delay after it came, in order, so that a delayed way is long and not slow."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def read() -> None:
            while True:
                piece = await reader.read(CHUNK_BYTES)
                await pieces.put((loop.time() + way.delay, piece))
                if not piece:
                    return

        async def write() -> None:
            while True:
                due, piece = await pieces.get()
                if (left := due - loop.time()) > 0:
                    await asyncio.sleep(left)
                await self._wait(way)
                if not piece:
                    # The other direction ends with it: none of our protocols speaks on in a half-open connection.
                    raise ConnectionResetError("the end of the stream")
                writer.write(piece)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(write())

    async def _wait(self, way: Way) -> None:
        while way.blocked:
            await self._opened.wait()
            # The event is for both ways.
            await asyncio.sleep(0 if not way.blocked else 0.01)


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.is_closing():
        return
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
