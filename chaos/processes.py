"""Processes of the run: started, stopped, killed and paused by their ids, and by nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pathlib
import random
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence

PARENT_VARIABLE = "WHARFINGER_PARENT_PROCESS_ID"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def free_port(randomness: random.Random) -> int:
    """A port of 127.0.0.1 that is free now, below those that the system gives to outgoing connections."""
    while True:
        port = randomness.randrange(10_000, 20_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Ours, without what would lead a process to another database or proxy; the child ends with us."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "RUST_LOG") and not name.startswith(("WHARFINGER_", "PG")) and not name.lower().endswith("_proxy")
    }
    return kept | {PARENT_VARIABLE: str(os.getpid())} | dict(more)


class Process:
    """One of our processes, which may be started many times."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: pathlib.Path,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.log = log
        self.environment = dict(environment or {})
        self._user, self._group = user, group
        self.starts = 0
        self._process: asyncio.subprocess.Process | None = None
        # A supervisor may be starting it when a fault wants to end it.
        self._changing = asyncio.Lock()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it unless it runs."""
        async with self._changing:
            if not self.runs:
                await self._start()

    async def _start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(self.environment),
                cwd="/",
                user=self._user,
                group=self._group,
                extra_groups=[] if self._user is not None else None,
                start_new_session=True,
                # For those that do not know our variable. Python runs this after it has changed the user.
                preexec_fn=_end_with_parent,
            )

    def send(self, number: int) -> None:
        if self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """kill -9, and its end."""
        await self.end(signal.SIGKILL)

    async def end(self, number: int = signal.SIGTERM, timeout: float = 75.0) -> None:
        async with self._changing:
            if self._process is None or self._process.returncode is not None:
                return
            self.send(signal.SIGCONT)
            self.send(number)
            try:
                await asyncio.wait_for(self._process.wait(), timeout)
            except TimeoutError:
                self.send(signal.SIGKILL)
                await self._process.wait()

    async def pause(self) -> None:
        """SIGSTOP; returns once every thread has stopped."""
        async with self._changing:
            self.send(signal.SIGSTOP)
            while self.runs and not all(state in "TtZX" for state in self._thread_states()):
                await asyncio.sleep(0.002)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def _thread_states(self) -> list[str]:
        states = []
        for file in pathlib.Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):
                states.append(file.read_text().rpartition(")")[2].split()[0])
        return states

    def log_tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def wait_until(look: Callable[[], Awaitable[bool]], what: str, timeout: float = 30.0, interval: float = 0.05) -> None:
    """Returns when `look` says so; fails after `timeout` seconds."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not await look():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"waited {timeout} s in vain: {what}")
        await asyncio.sleep(interval)


async def run(arguments: Sequence[str], user: int | None = None, group: int | None = None, timeout: float = 180.0, codes: Sequence[int] = (0,)) -> str:  # fmt: skip
    """Runs a program to its end, which must be with one of these codes, and returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=clean_environment({"LC_ALL": "C.UTF-8"}),
        cwd="/",
        user=user,
        group=group,
        extra_groups=[] if user is not None else None,
    )
    output, _ = await asyncio.wait_for(process.communicate(), timeout)
    text = output.decode(errors="replace")
    if process.returncode not in codes:
        raise RuntimeError(f"{pathlib.Path(arguments[0]).name} {' '.join(arguments[1:4])} ended with {process.returncode}: {text[-2000:]}")
    return text
