"""Many clients that pull one image at once."""

from ..feed.run import quantile
from .site import Site

CLIENTS, ROUNDS = 200, 3
LAYERS, LAYER_BYTES = 5, 256 * 1024


def measure(run):
    with Site(run) as site:
        for side in (site.by_token, site.docker):
            side.load("push", "--blobs", LAYERS + 1, "--blob-bytes", LAYER_BYTES, "--tag", "pulled")

        def pull(side):
            result = side.load("pull", "--rounds", ROUNDS, "--tag", "pulled", clients=run.sized(CLIENTS, 4))
            run.record(f"pulls {side.name} p50", result["milliseconds"]["p50"])
            return result["milliseconds"]["p99"]

        for repetition in run.repetitions(run.options.repetitions):
            site.sides(
                repetition,
                ("pulls p99", lambda: pull(site.by_token)),
                ("pulls docker p99", lambda: pull(site.docker)),
            )


def lines(table):
    if not table.has("pulls p99"):
        return
    ratios = sorted(mine / theirs for mine, theirs in zip(table.samples["pulls p99"], table.samples["pulls docker p99"]))
    ratio = quantile(ratios, 0.5)
    p50 = " / ".join(table.spread(f"pulls {side} p50") for side in ("ours", "docker-registry"))
    what = f"{CLIENTS} clients at once connect and pull an image of {LAYERS} layers of {LAYER_BYTES // 1024} KiB / docker-registry, p99"
    sides = f"{table.spread('pulls p99')} / {table.spread('pulls docker p99')} ms; p50 {p50} ms"
    reached = "yes" if ratio <= 0.5 else "**no**"
    table.row(what, "≤ 0.5 ×", f"**{ratio:.2f} ×** ({ratios[0]:.2f}–{ratios[-1]:.2f})", reached, sides)
