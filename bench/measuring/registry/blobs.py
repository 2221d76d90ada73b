"""GET and PUT of a blob of 100 MiB."""

import secrets

from ..web import load
from .site import REPOSITORY, Site

MEBIBYTES = 100
CONNECTIONS = 4
UPLOADS = 4


def measure(run):
    size = MEBIBYTES * 1024 * 1024
    with Site(run) as site:
        url = site.nginx(secrets.token_bytes(size))
        paths = {side: path_of(side.load("upload", "--bytes", size)) for side in (site.by_token, site.docker)}

        def get(side):
            return mebibytes(side.wrk(paths[side], CONNECTIONS, run.options.seconds))

        def put(side):
            return side.load("upload", "--bytes", size, "--count", UPLOADS)["mebibytes_per_second"]

        for repetition in run.repetitions(run.options.repetitions):
            site.sides(
                repetition,
                ("blobs get", lambda: get(site.by_token)),
                ("blobs get nginx", lambda: mebibytes(load("report.lua", url, CONNECTIONS, run.options.seconds, {}))),
                ("blobs get docker", lambda: get(site.docker)),
            )
            site.sides(
                repetition,
                ("blobs put", lambda: put(site.by_token)),
                ("blobs put docker", lambda: put(site.docker)),
            )


def path_of(uploaded):
    return f"/v2/{REPOSITORY}/blobs/{uploaded['digest']}"


def mebibytes(result):
    return result["per_second"] * MEBIBYTES


def lines(table):
    table.ratio(f"GET of a blob of {MEBIBYTES} MiB / nginx, static file", "blobs get", "blobs get nginx", 0.7, "MiB/s")
    table.ratio("the same / docker-registry", "blobs get", "blobs get docker", 1, "MiB/s")
    table.ratio(f"upload of a blob of {MEBIBYTES} MiB / docker-registry", "blobs put", "blobs put docker", 2, "MiB/s")
