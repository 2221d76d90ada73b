"""The run's private Postgres: its own directory and port, killed and restored at will."""

from __future__ import annotations

import asyncio
import os
import pathlib
import pwd
import secrets

from .processes import Process, run, wait_until

# An SSLRequest: a server that takes connections answers with one letter.
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
OLD_TRANSACTIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - interval '1 second'
"""


def programs() -> pathlib.Path:
    """The directory of the newest installed server programs, looked for as scripts/lib-postgres.sh does it."""
    for pattern in ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql*/bin"):
        found = [path for path in pathlib.Path("/").glob(pattern) if (path / "initdb").exists()]
        if found:
            return max(found, key=lambda path: [int(part) for part in "".join(c if c.isdigit() else " " for c in str(path)).split()])
    raise RuntimeError("no Postgres server programs found; install them with: apt-get install postgresql")


class Postgres:
    """A server for one database."""

    def __init__(self, directory: pathlib.Path, port: int) -> None:
        self.port = port
        self.is_down = False
        self._directory = directory
        self._programs = programs()
        self._password = secrets.token_hex(16)
        user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self._user = user.pw_uid if user else None
        self._group = user.pw_gid if user else None
        self.process = Process(
            "postgres",
            [
                str(self._programs / "postgres"), "-D", str(directory / "data"), "-p", str(port),
                "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={directory}",
                "-c", "max_connections=200", "-c", "fsync=off",
            ],
            directory / "server.log",
            {"LC_ALL": "C.UTF-8"},
            self._user,
            self._group,
        )  # fmt: skip

    def url(self, port: int) -> str:
        """The database through `port`, which may be a proxy's."""
        return f"postgres://postgres:{self._password}@127.0.0.1:{port}/postgres"

    async def create(self) -> None:
        self._directory.mkdir()
        password = self._directory / "password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        if self._user is not None:
            os.chown(self._directory, self._user, self._group or 0)
            os.chown(password, self._user, self._group or 0)
        await self._run("initdb", "-D", str(self._directory / "data"), "-U", "postgres", "--auth=scram-sha-256",
                        f"--pwfile={password}", "--encoding=UTF8", "--no-sync")  # fmt: skip
        await self.start()

    async def start(self) -> None:
        """Starts it and waits until it takes connections; a server that finds what a killed one left is started again."""
        await self.process.start()

        async def serves() -> bool:
            if not self.process.runs:
                await asyncio.sleep(0.1)
                await self.process.start()
            return await self._answers()

        await wait_until(serves, f"Postgres; its log ends with:\n{self.process.log_tail()}", 240)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(SSL_REQUEST)
            answer = await asyncio.wait_for(reader.read(1), 2)
            writer.close()
        except (OSError, TimeoutError):
            return False
        if answer not in (b"S", b"N"):
            return False
        # It says so before it has recovered; a statement tells.
        try:
            await self.query("SELECT 1")
        except RuntimeError:
            return False
        return True

    async def query(self, statement: str) -> str:
        output = await self._run("psql", "--no-psqlrc", "-At", "-d", self.url(self.port), "-c", statement)
        return output.strip()

    async def has_old_transaction(self) -> bool:
        """Whether a client's transaction has been under way for more than a second, as far as the server can be asked."""
        try:
            return await self.query(OLD_TRANSACTIONS) != "0"
        except (RuntimeError, TimeoutError):
            return True

    async def dump(self, file: pathlib.Path) -> None:
        """`file` lies in a directory of the server's user."""
        await self._run("pg_dump", "-Fc", "-d", self.url(self.port), "-f", str(file))

    async def restore(self, file: pathlib.Path) -> None:
        """In place: everything of the dump is dropped and made again, in one transaction."""
        await self._run("pg_restore", "--clean", "--if-exists", "--single-transaction", "-d", self.url(self.port), str(file))

    async def _run(self, program: str, *arguments: str) -> str:
        return await run([str(self._programs / program), *arguments], self._user, self._group)
