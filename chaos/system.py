"""The system under test: a private Postgres, control planes and nodes as processes with ordinary flags, and our proxies between them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import mmap
import pathlib
import random
import secrets
import shutil
import ssl
import struct

from . import certificates
from .http_client import Server
from .issuer import Issuer
from .postgres import Postgres
from .processes import Process, free_port, run, wait_until
from .proxy import Proxy

SUFFIX = ".registry.localhost"
STATE_MIB, CONTENT_MIB = 48, 1024


class ControlPlane:
    """One control plane, and its proxy to Postgres."""

    def __init__(self, name: str, process: Process, server: Server, database: Proxy, metrics_port: int) -> None:
        self.name = name
        self.process = process
        self.server = server
        self.database = database
        self.metrics_port = metrics_port
        # Whether a fault has it now, so that no other takes it.
        self.is_faulty = False

    async def is_ready(self) -> bool:
        return self.process.runs and await _is_ready(self.metrics_port)


class Node:
    """One registry node, its proxy to the control planes, and what its disk and clock are told."""

    def __init__(self, name: str, region: str, process: Process, server: Server, link: Proxy, metrics_port: int, state: pathlib.Path) -> None:
        self.name = name
        self.region = region
        self.process = process
        self.server = server
        self.link = link
        self.metrics_port = metrics_port
        self.state = state
        self.is_faulty = False
        self.has_left = False
        self._page_file = state.parent / f"{name}.page"
        self._page_file.write_bytes(bytes(4096))
        with self._page_file.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 4096)

    @property
    def page(self) -> pathlib.Path:
        return self._page_file

    def set_clock(self, seconds: float) -> None:
        struct.pack_into("q", self._page, 0, int(seconds * 1_000_000_000))

    def slow_down_disk(self, seconds: float) -> None:
        struct.pack_into("q", self._page, 8, int(seconds * 1_000_000))

    async def is_ready(self) -> bool:
        return self.process.runs and await _is_ready(self.metrics_port)

    @property
    def node_id(self) -> str | None:
        """As the control plane knows it, once it has joined."""
        try:
            return json.loads((self.state / "credential.json").read_text())["node_id"]
        except (OSError, ValueError, KeyError):
            return None


class System:
    """All of it, in one directory that goes at the end."""

    def __init__(self, binary: pathlib.Path, directory: pathlib.Path, randomness: random.Random, options: Options) -> None:
        self.directory = directory
        self.options = options
        self._randomness = randomness
        self.binary = directory / "wharfinger"
        shutil.copy2(binary, self.binary)
        self.logs = directory / "logs"
        self.logs.mkdir()
        self._ports: set[int] = set()
        self._mounts: list[pathlib.Path] = []
        self.postgres = Postgres(directory / "postgres", self._port())
        self.control_planes: list[ControlPlane] = []
        self.nodes: list[Node] = []
        self.tls = ssl.create_default_context()
        self.bootstrap: dict[str, str] = {}
        # Trusted by the control planes.
        self.issuer: Issuer | None = None
        self.suffix = f"{SUFFIX}:{self._port()}"
        self._files: tuple[pathlib.Path, pathlib.Path, pathlib.Path] | None = None
        self._shim: pathlib.Path | None = None

    def _port(self) -> int:
        while (port := free_port(self._randomness)) in self._ports:
            pass
        self._ports.add(port)
        return port

    @property
    def regions(self) -> list[str]:
        return list(self.options.nodes)

    async def start(self) -> None:
        self._files = certificates.create(self.directory)
        self.issuer = Issuer(self._port(), self._files[1], self._files[2])
        self.tls = ssl.create_default_context(cafile=str(self._files[0]))
        self.tls.set_alpn_protocols(["http/1.1"])
        await self._build_shim()
        await self.postgres.create()
        ports = [self._port() for _ in range(self.options.control_planes)]
        self.public_url = f"https://localhost:{ports[0]}"
        await self._initialise()
        for number, port in enumerate(ports, 1):
            await self._add_control_plane(f"control-plane-{number}", port)
        await asyncio.gather(*(wait_until(each.is_ready, f"{each.name}:\n{each.process.log_tail()}", 240) for each in self.control_planes))
        for region, count in self.options.nodes.items():
            for _ in range(count):
                node = await self.add_node(region)
                if node.name in self.options.earlier:
                    # Before newer forms of documents are in use, which it would have to understand to join.
                    await wait_until(node.is_ready, f"{node.name}, of an earlier build", 240)
        for node in self.nodes:
            await wait_until(node.is_ready, f"{node.name}:\n{node.process.log_tail()}", 240)

    async def stop(self) -> None:
        """Ends every process that was started here, and nothing else."""
        if self.issuer is not None:
            self.issuer.stop()
        await asyncio.gather(*(node.process.kill() for node in self.nodes))
        await asyncio.gather(*(each.process.kill() for each in self.control_planes))
        await self.postgres.process.kill()
        for proxy in [*(node.link for node in self.nodes), *(each.database for each in self.control_planes)]:
            await proxy.stop()
        for mount in reversed(self._mounts):
            # The kernel may hold a file of a killed process for a moment yet.
            await run(["umount", "--lazy", str(mount)])

    async def admin(self, *arguments: str) -> str:
        command = [str(self.binary), "admin", *arguments, "--database-url-file", str(self.directory / "database-url")]
        # 3: done, and not in force everywhere.
        return await run(command, codes=(0, 3))

    async def _build_shim(self) -> None:
        shim = self.directory / "shim.so"
        source = pathlib.Path(__file__).with_name("shim.c")
        await run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(shim), str(source), "-ldl"])
        self._shim = shim

    async def _initialise(self) -> None:
        key = self.directory / "key-encryption-key"
        key.write_text(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        url = self.directory / "database-url"
        url.touch(mode=0o600)
        url.write_text(self.postgres.url(self.postgres.port))
        bootstrap = self.directory / "bootstrap.json"
        regions = [argument for region in self.regions for argument in ("--region", region)]
        await self.admin("init", "--key-encryption-key-file", str(key), "--public-url", self.public_url,
                         "--login-server-suffix", self.suffix, *regions, "--bootstrap-file", str(bootstrap))  # fmt: skip
        self.bootstrap = json.loads(bootstrap.read_text())

    async def _add_control_plane(self, name: str, port: int) -> None:
        database = Proxy(f"{name}-postgres", self._port(), lambda: [self.postgres.port])
        await database.start()
        url = self.directory / f"{name}.database-url"
        url.touch(mode=0o600)
        url.write_text(self.postgres.url(database.port))
        metrics_port = self._port()
        process = Process(
            name,
            [
                str(self.options.earlier.get(name, self.binary)), "control-plane", "--database-url-file", str(url),
                "--key-encryption-key-file", str(self.directory / "key-encryption-key"),
                "--listen", f"127.0.0.1:{port}", *self._tls_flags(), "--metrics-listen", f"127.0.0.1:{metrics_port}",
                "--issuer-ca-file", str(self._files[0]), "--issuer-allow-private",
            ],
            self.logs / f"{name}.log",
            self.options.environment,
        )  # fmt: skip
        await process.start()
        self.control_planes.append(ControlPlane(name, process, Server(name, port, self.tls), database, metrics_port))

    async def add_node(self, region: str) -> Node:
        """Enrols a node of the region and starts it; does not wait until it serves."""
        name = f"node-{len(self.nodes) + 1}"
        state = await self._disk(self.directory / f"{name}-state", STATE_MIB)
        content = await self._disk(self.directory / f"content-{region}", CONTENT_MIB)
        token = self.directory / f"{name}.join-token"
        await self.admin("node", "create", "--region", region, "--join-token-file", str(token))
        link = Proxy(f"{name}-control-plane", self._port(), self._some_control_planes)
        await link.start()
        port, metrics_port = self._port(), self._port()
        bound = self.options.staleness_bound
        process = Process(
            name,
            [
                str(self.options.earlier.get(name, self.binary)), "registry-node", "--region", region,
                "--state-dir", str(state), "--content-dir", str(content),
                "--control-plane", f"https://localhost:{link.port}", "--control-plane-ca", str(self._files[0]),
                *(["--node-ca", str(self._files[0])] if len(self.regions) > 1 else []),
                "--join-token-file", str(token), "--advertised-address", f"localhost:{port}",
                "--listen", f"127.0.0.1:{port}", *self._tls_flags(), "--metrics-listen", f"127.0.0.1:{metrics_port}",
                *([] if bound is None else [self.options.staleness_flag, str(bound)]),
            ],
            self.logs / f"{name}.log",
            self.options.environment,
        )  # fmt: skip
        node = Node(name, region, process, Server(name, port, self.tls), link, metrics_port, state)
        process.environment |= {"LD_PRELOAD": str(self._shim), "WHARFINGER_CHAOS_PAGE": str(node.page)}
        await process.start()
        self.nodes.append(node)
        return node

    def _some_control_planes(self) -> list[int]:
        """As behind a balancer: any of them, and another where one does not listen."""
        ports = [each.server.port for each in self.control_planes]
        self._randomness.shuffle(ports)
        return ports

    def _tls_flags(self) -> list[str]:
        assert self._files is not None
        return ["--tls-certificate", str(self._files[1]), "--tls-key", str(self._files[2])]

    async def _disk(self, directory: pathlib.Path, size_mib: int) -> pathlib.Path:
        """A directory that is a small disk of its own, where we may make one."""
        if directory.exists():
            return directory
        directory.mkdir(mode=0o700)
        options = f"size={size_mib}m,mode=0700"
        with contextlib.suppress(RuntimeError, OSError):
            # As root only, and not in every container.
            await run(["mount", "-t", "tmpfs", "-o", options, "wharfinger-chaos", str(directory)])
            self._mounts.append(directory)
        return directory

    @property
    def has_disks(self) -> bool:
        return bool(self._mounts)


class Options:
    """What the system is made of."""

    def __init__(
        self,
        nodes: dict[str, int],
        control_planes: int = 2,
        staleness_bound: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.nodes = nodes
        self.control_planes = control_planes
        self.staleness_bound = staleness_bound
        self.staleness_flag = "--staleness-bound"
        self.environment = environment or {}
        # Programs of an earlier build, by the name of the process that runs it.
        self.earlier: dict[str, pathlib.Path] = {}


async def _is_ready(port: int) -> bool:
    """Whether /readyz of a process says 200."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            head = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in head
