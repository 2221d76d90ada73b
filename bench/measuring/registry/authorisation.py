"""What the gate costs: processor time of a GET of a manifest with a token, at the node and at the same handlers without a gate."""

import signal
import subprocess
import time

from ..installation import REGION, environment
from ..machine import Failure, free_port, processor_seconds
from .manifests import BLOB_BYTES, BLOBS, CONNECTIONS
from .site import REPOSITORY, Side, Site


def measure(run):
    with Site(run) as site:
        site.by_token.load("push", "--blobs", BLOBS, "--blob-bytes", BLOB_BYTES)
        answer, _ = site.by_token.ask(f"/v2/{REPOSITORY}/manifests/latest")
        path = f"/v2/{REPOSITORY}/manifests/{answer['docker-content-digest']}"
        gateless = start_gateless(site)

        def microseconds(side):
            before = processor_seconds(side.pid)
            result = side.wrk(path, CONNECTIONS, run.options.seconds)
            return (processor_seconds(side.pid) - before) / result["requests"] * 1_000_000

        for repetition in run.repetitions(run.options.repetitions):
            site.sides(
                repetition,
                ("authorisation node", lambda: microseconds(site.by_token)),
                ("authorisation gateless", lambda: microseconds(gateless)),
            )


def start_gateless(site):
    """The example gateless_node on the node's own content."""
    content = site.installation.state / f"content-{REGION}"
    (registry,) = (content / "r").iterdir()
    certificate, key = site.installation.certificate
    port = free_port()
    command = [site.run.example("gateless_node"), "--content-dir", str(content), "--region", REGION, "--registry", registry.name]
    command += ["--listen", f"127.0.0.1:{port}", "--tls-certificate", str(certificate), "--tls-key", str(key)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment())

    def end():
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    site.ending.callback(end)
    side = Side(site, "gateless", port, process.pid)
    for _ in range(200):
        try:
            side.ask("/v2/")
            return side
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise Failure("the example gateless_node does not serve")


def lines(table):
    if not table.has("authorisation node"):
        return
    shares = sorted(
        100 * (1 - without / whole)
        for whole, without in zip(table.samples["authorisation node"], table.samples["authorisation gateless"])
    )
    share = shares[len(shares) // 2]
    sides = " / ".join(table.spread(f"authorisation {side}", "{:.1f}") for side in ("node", "gateless"))
    what = "the gate's share of a GET of a manifest with a token, in processor time: authorisation, and also counting and logging"
    reached = "yes" if share <= 10 else "**no**"
    table.row(what, "≤ 10 %", f"**{share:.1f} %** ({shares[0]:.1f}–{shares[-1]:.1f})", reached, f"{sides} µs a request, with / without")
