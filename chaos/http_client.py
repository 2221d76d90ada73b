"""HTTP/1.1 over TLS, by hand: which process is asked, from which address, under which name, is for the caller to say."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import ssl
from collections.abc import Mapping

HEAD_BYTES = 64 * 1024


class Broken(Exception):
    """There is no answer: no connection, one that ended, or none in time."""


@dataclasses.dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


@dataclasses.dataclass
class Server:
    """Where a process listens, and the name that its certificate and requests have."""

    name: str
    port: int
    tls: ssl.SSLContext


class Connections:
    """One caller's connections, one for each server and name; each carries one request at a time."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._open: dict[tuple[int, str], tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def request(
        self,
        server: Server,
        host: str,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float = 10.0,
    ) -> Response:
        """Sends a request to `server` under the name `host` and reads the whole answer."""
        key = (server.port, host)
        try:
            async with asyncio.timeout(timeout):
                connection = self._open.pop(key, None)
                if connection is None or connection[0].at_eof() or connection[1].is_closing():
                    connection = await self._connect(server, host)
                try:
                    response, keep = await _exchange(*connection, host, method, path, headers or {}, body)
                except BaseException:
                    connection[1].transport.abort()
                    raise
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, TimeoutError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        if keep:
            self._open[key] = connection
        else:
            connection[1].close()
        return response

    async def _connect(self, server: Server, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1",
            server.port,
            ssl=server.tls,
            server_hostname=host.partition(":")[0],
            local_addr=(self._address, 0),
            limit=HEAD_BYTES,
        )

    def close(self) -> None:
        for _, writer in self._open.values():
            with contextlib.suppress(OSError):
                writer.transport.abort()
        self._open.clear()


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
) -> tuple[Response, bool]:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        if status >= 200:
            break
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    content = await _body(reader, method, status, fields)
    keep = fields.get("connection", "").lower() != "close"
    return Response(status, fields, content), keep


async def _body(reader: asyncio.StreamReader, method: str, status: int, fields: Mapping[str, str]) -> bytes:
    if method == "HEAD" or status in (204, 304):
        return b""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return b"".join(parts)
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    return await reader.read()
