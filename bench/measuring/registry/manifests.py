"""GET of a manifest."""

from ..web import load
from .site import REPOSITORY, Site

CONNECTIONS = 16
BLOBS, BLOB_BYTES = 6, 1024


def measure(run):
    with Site(run) as site:
        with_passwords = site.docker_registry("docker-registry with htpasswd", "bench")
        paths = {}
        for side in (site.by_token, site.docker):
            side.load("push", "--blobs", BLOBS, "--blob-bytes", BLOB_BYTES)
            answer, content = side.ask(f"/v2/{REPOSITORY}/manifests/latest")
            paths[side] = f"/v2/{REPOSITORY}/manifests/{answer['docker-content-digest']}"
        ours, theirs = paths[site.by_token], paths[site.docker]
        url = site.nginx(content)
        seconds = run.options.seconds

        def gets(side, path):
            result = side.wrk(path, CONNECTIONS, seconds)
            run.record(f"manifests {side.name} p99", result["p99"] / 1000)
            return result["per_second"]

        for repetition in run.repetitions(run.options.repetitions):
            site.sides(
                repetition,
                ("manifests token", lambda: gets(site.by_token, ours)),
                ("manifests password", lambda: gets(site.by_password, ours)),
                ("manifests tag", lambda: site.by_token.wrk(f"/v2/{REPOSITORY}/manifests/latest", CONNECTIONS, seconds)["per_second"]),
                ("manifests nginx", lambda: load("report.lua", url, CONNECTIONS, seconds, {})["per_second"]),
                ("manifests docker", lambda: gets(site.docker, theirs)),
                ("manifests htpasswd", lambda: gets(with_passwords, theirs)),
            )


def lines(table):
    if not table.has("manifests token"):
        return
    for name, what in (("password", "Basic"), ("token", "Bearer")):
        side = "ours by password" if name == "password" else "ours"
        p99 = f"p99 {table.spread(f'manifests {side} p99', '{:.1f}')} ms"
        first = f"GET of a manifest by its digest, {what} / nginx, static file"
        table.ratio(first, f"manifests {name}", "manifests nginx", 0.25, "requests/s", p99)
        table.ratio("the same / docker-registry without authentication", f"manifests {name}", "manifests docker", 8, "requests/s")
        table.ratio("the same / docker-registry with htpasswd (bcrypt 5)", f"manifests {name}", "manifests htpasswd", 20, "requests/s")
    table.ratio("the same by its tag, Bearer / nginx, static file", "manifests tag", "manifests nginx", None, "requests/s")
