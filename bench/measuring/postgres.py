"""The peer of the control plane: pgbench, against the private Postgres of the installation that is measured."""

import glob
import json
import os
import pathlib
import re
import shutil
import urllib.parse

from .installation import environment
from .machine import ROOT, Failure, run

PLAIN = {"PGSSLMODE": "disable"}
CLIENTS = ["--client=8", "--jobs=2"]
# As many rows as fit in Postgres's own memory: a harder peer than one that reads from files.
SELECT_SCALE = 1


class Postgres:
    def __init__(self, installation):
        url = urllib.parse.urlsplit(installation.ready["database_url"])
        self.directory = installation.directory
        self.database = url.path.lstrip("/")
        self.data = installation.state / "postgres" / "data"
        self.programs = programs((self.data / "PG_VERSION").read_text().strip())
        self.environment = environment() | {
            "PGHOST": url.hostname,
            "PGPORT": str(url.port),
            "PGUSER": url.username,
            "PGPASSWORD": url.password,
        }
        # The certificate is the servers' own, and it is verified.
        self.tls = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": installation.ready["ca_file"]}
        self._give_certificate(installation.certificate)

    def _give_certificate(self, files):
        owner = self.data.stat()
        for name, file in zip(("bench.pem", "bench-key.pem"), files):
            copy = self.data / name
            shutil.copyfile(file, copy)
            copy.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(copy, owner.st_uid, owner.st_gid)
        self.sql("ALTER SYSTEM SET ssl_cert_file = 'bench.pem'")
        self.sql("ALTER SYSTEM SET ssl_key_file = 'bench-key.pem'")

    def with_tls(self, measure):
        """Measures while Postgres takes TLS. Otherwise it does not: the control plane would use it too, and `wharfinger dev` runs without."""
        self._switch_tls("on")
        try:
            return measure(self.tls)
        finally:
            if self._control_plane_sessions_with_tls():
                raise Failure("the control plane connected with TLS meanwhile: it would be measured slower than it runs")
            self._switch_tls("off")

    def _switch_tls(self, state):
        self.sql(f"ALTER SYSTEM SET ssl = {state}")
        self.sql("SELECT pg_reload_conf()")
        for _ in range(100):
            if self.sql("SHOW ssl") == state:
                return
        raise Failure(f"Postgres does not switch ssl {state}")

    def _control_plane_sessions_with_tls(self):
        statement = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'wharfinger'"
        return int(self.sql(statement))

    def program(self, name):
        return str(self.programs / name)

    def sql(self, statement, database=None):
        command = [self.program("psql"), "--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--command", statement]
        return run([*command, database or self.database], env=self.environment | PLAIN).strip()

    def prepare_select(self):
        """pgbench's own tables, in a database of their own."""
        self.sql("CREATE DATABASE bench_select")
        command = [self.program("pgbench"), "--initialize", "--quiet", f"--scale={SELECT_SCALE}", "bench_select"]
        run(command, env=self.environment | PLAIN)

    def copy_installation(self):
        """A database with the same tables and rows, which no control plane looks at."""
        self.sql("CREATE DATABASE bench_copy")
        dump = self.directory / "dump.sql"
        run([self.program("pg_dump"), f"--file={dump}", self.database], env=self.environment | PLAIN)
        command = [self.program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={dump}", "bench_copy"]
        run(command, env=self.environment | PLAIN)
        self.sql("VACUUM ANALYZE", "bench_copy")

    def pgbench(self, arguments, security):
        """Transactions a second."""
        output = run([self.program("pgbench"), "--no-vacuum", "--protocol=prepared", *arguments], env=self.environment | security)
        failed = re.search(r"number of failed transactions: (\d+)", output)
        if failed and int(failed.group(1)):
            raise Failure(f"pgbench had failures:\n{output}")
        return float(re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE).group(1))

    def select(self, seconds, security):
        return self.pgbench(["--select-only", *CLIENTS, f"--time={seconds}", "bench_select"], security)

    def script(self, script, seconds, security):
        """A script of ours by 8 clients."""
        return self.pgbench([*script.arguments(), *CLIENTS, f"--time={seconds}", "bench_copy"], security)

    def latencies(self, script, count, security):
        """Milliseconds of each transaction of one client."""
        for old in glob.glob(f"{self.directory}/transactions*"):
            os.unlink(old)
        prefix = f"--log-prefix={self.directory}/transactions"
        self.pgbench([*script.arguments(), "--client=1", f"--transactions={count}", "--log", prefix, "bench_copy"], security)
        (log,) = glob.glob(f"{self.directory}/transactions*")
        return [int(line.split()[2]) / 1000 for line in pathlib.Path(log).read_text().splitlines()]


def programs(version):
    found = pathlib.Path(f"/usr/lib/postgresql/{version}/bin")
    if not (found / "pgbench").exists():
        found = pathlib.Path(shutil.which("pgbench") or "/").parent
    for name in ("pgbench", "psql", "pg_dump"):
        if not (found / name).exists():
            raise Failure(f"{name} of Postgres {version} is not installed")
    return found


class Script:
    """A pgbench script made of the control plane's own statements."""

    def __init__(self, file, lines, variables):
        self.file = pathlib.Path(file)
        self.file.write_text("\n".join(lines) + "\n")
        self.variables = variables

    def arguments(self):
        return [f"--file={self.file}", *(f"--define={name}={value}" for name, value in self.variables.items())]


class Statements:
    """The statements of `store`, as .sqlx/ has them: what is measured cannot drift from what is run."""

    def __init__(self):
        queries = (json.loads(file.read_text()) for file in (ROOT / ".sqlx").glob("query-*.json"))
        self.queries = {query["query"]: query for query in queries}

    def with_values(self, mark, values):
        """The one statement that contains the mark, with an expression in the place of each parameter."""
        found = [text for text in self.queries if mark in " ".join(text.split())]
        if len(found) != 1:
            raise Failure(f"{len(found)} statements in .sqlx/ contain {mark!r}: bench/ must be brought up to date")
        (text,) = found
        wanted = len(self.queries[text]["describe"]["parameters"]["Left"])
        if wanted != len(values):
            raise Failure(f"the statement with {mark!r} has {wanted} parameters, bench/ knows {len(values)}")
        text = re.sub(r"\$(\d+)", lambda match: values[int(match.group(1)) - 1], text)
        # A column's alias may say its type in Rust; pgbench makes variables of columns, and such a name is none.
        return re.sub(r'AS "(\w+)[^"]*"', r'AS "\1"', text)


NUMBER_AS_UUID = "lpad(to_hex(:n::bigint), 32, '0')::uuid"
A_NUMBER = "\\set n random(1, 9000000000000000000)"


class Scripts:
    """The statements of a request each, in the order and the transactions of the control plane."""

    def __init__(self, postgres, ready, registry, directory):
        self.statements = Statements()
        self.directory = directory
        self.variables = variables(postgres, ready, registry)

    def show(self):
        # Of a caller who asked before: what is known of it still counts if the head is the same.
        values = [":subscription", "'bench'", ":registry_key"]
        statement = self.statements.with_values("FROM config_head WHERE singleton) h LEFT JOIN subscriptions", values)
        return Script(self.directory / "show.sql", [statement + ";"], self.variables)

    def create(self):
        name = "'bench' || :n::text"
        lines = [
            A_NUMBER,
            self._facts(f"({name})") + ";",
            self.statements.with_values("FROM regions ORDER BY name", []) + ";",
            "BEGIN;",
            self._record("write", f":group_scope || '/providers/microsoft.containerregistry/registries/' || {name}"),
            self._insert(name) + ";",
            self._head(),
            self._publish(
                regions="ARRAY['*', :region]::text[]",
                kinds="ARRAY['registry-name', 'registry']::text[]",
                keys=f"ARRAY[{name}, ({NUMBER_AS_UUID})::text]::text[]",
                bodies="ARRAY[:name_body, :registry_body]::text[]",
                hashes="ARRAY[:n::text || '0000000000000000000', :n::text || '1111111111111111111']::text[]",
                wholes="ARRAY[NULL, NULL]::text[]",
            ),
            "COMMIT;",
        ]
        return Script(self.directory / "create.sql", lines, self.variables)

    def _insert(self, name):
        values = [NUMBER_AS_UUID, ":group_uid", ":subscription", f"({name})", f"({name})", f"({name} || '.registry.localhost')"]
        values += [":region", "'Basic'", "'{}'", "true", ":now", ":caller", "'Application'"]
        values += ["ARRAY['password', 'password2']", "ARRAY[:sealed::bytea, :sealed::bytea]"]
        values += ["ARRAY[:verifier::bytea, :verifier::bytea]", "'LegacyRegistryPermissions'", "false", "NULL::jsonb"]
        return self.statements.with_values("INSERT INTO registries", values)

    def renew(self):
        lines = [
            A_NUMBER,
            self._facts(":registry_key") + ";",
            "BEGIN;",
            self._record("regenerateCredential/action", ":group_scope || :registry_key"),
            self.statements.with_values("FROM storage_limits ORDER BY sku FOR SHARE", []) + ";",
            self.statements.with_values("SELECT sku, admin_user_enabled, role_assignment_mode", [":uid"]) + ";",
            self.statements.with_values("WITH renewed AS", [":uid", "'password'", ":sealed", ":verifier", ":n"]) + ";",
            self._head(),
            self._publish(
                regions="ARRAY[:region]::text[]",
                kinds="ARRAY['registry']::text[]",
                keys="ARRAY[:uid]::text[]",
                bodies="ARRAY[:registry_body]::text[]",
                hashes="ARRAY[:n::text || '0000000000000000000']::text[]",
                wholes="ARRAY[NULL]::text[]",
            ),
            "COMMIT;",
        ]
        return Script(self.directory / "renew.sql", lines, self.variables)

    def _facts(self, registry_key):
        chain = f"ARRAY[:group_scope || '/providers/microsoft.containerregistry/registries/' || {registry_key}, :group_scope, :subscription_scope, '/']"
        values = [":subscription", "'bench'", registry_key, ":object_id", ":key_id", chain, "'9999-12-31Z'::timestamptz"]
        return self.statements.with_values("EXISTS (SELECT FROM group_members m WHERE m.member_id = $4)", values)

    def _record(self, action, resource):
        """Who did what, in the change's own transaction."""
        values = [NUMBER_AS_UUID, ":now", NUMBER_AS_UUID, f"'Microsoft.ContainerRegistry/registries/{action}'"]
        values += [f"({resource})", f"({resource})", "'Succeeded'", "NULL::smallint", "NULL::text", ":object_id"]
        values += ["NULL::text", "'127.0.0.1'", "'{}'"]
        return self.statements.with_values("INSERT INTO activity_log AS known", values) + ";"

    def _head(self):
        return self.statements.with_values("UPDATE config_head SET revision = revision + 1", []) + " \\gset"

    def _publish(self, regions, kinds, keys, bodies, hashes, wholes):
        values = [regions, kinds, keys, bodies, hashes, ":revision", wholes, NUMBER_AS_UUID, "'{}'::jsonb", "201::smallint"]
        return self.statements.with_values("SELECT region, kind, key, body, hash::numeric AS hash", values) + ";"


def variables(postgres, ready, registry):
    """Values as the control plane sends them, taken from the copy."""

    def one(statement):
        return postgres.sql(statement, "bench_copy")

    uid = one(f"SELECT uid FROM registries WHERE name_key = '{registry['name']}'")
    client = ready["client_id"]
    subscription = ready["subscription_id"]
    return {
        "object_id": one(f"SELECT object_id FROM service_principals WHERE app_id = '{client}'"),
        "key_id": one(f"SELECT key_id FROM application_secrets WHERE app_id = '{client}'"),
        "now": one("SELECT now()"),
        "caller": client,
        "region": registry["location"],
        "subscription": subscription,
        "subscription_scope": f"/subscriptions/{subscription}",
        "group_scope": f"/subscriptions/{subscription}/resourcegroups/bench",
        "group_uid": one("SELECT uid FROM resource_groups WHERE name_key = 'bench'"),
        "registry_key": registry["name"],
        "uid": uid,
        "sealed": one(f"SELECT sealed FROM registry_passwords WHERE registry_uid = '{uid}' LIMIT 1"),
        "verifier": one(f"SELECT verifier FROM registry_passwords WHERE registry_uid = '{uid}' LIMIT 1"),
        "registry_body": one(f"SELECT body FROM config_documents WHERE kind = 'registry' AND key = '{uid}'"),
        "name_body": one(f"SELECT body FROM config_documents WHERE kind = 'registry-name' AND key = '{registry['name']}'"),
    }
