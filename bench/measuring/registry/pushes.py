"""Pushes of small images."""

from .site import Site

CLIENTS = 4
# Blobs with the configuration, and bytes of each.
IMAGES = {"tiny": (2, 1024), "layered": (21, 16 * 1024)}


def measure(run):
    with Site(run) as site:
        def push(side, image):
            blobs, size = IMAGES[image]
            work = ("push", "--blobs", blobs, "--blob-bytes", size, "--seconds", run.options.seconds)
            result = side.load(*work, clients=CLIENTS)
            run.record(f"pushes {image} {side.name} p50", result["milliseconds"]["p50"])
            return result["per_second"]

        for repetition in run.repetitions(run.options.repetitions):
            for image in IMAGES:
                site.sides(
                    repetition,
                    (f"pushes {image}", lambda image=image: push(site.by_token, image)),
                    (f"pushes {image} docker", lambda image=image: push(site.docker, image)),
                )


def lines(table):
    for image, what in (("tiny", "a tiny image (2 blobs of 1 KiB)"), ("layered", "an image of 20 layers of 16 KiB")):
        if table.has(f"pushes {image}"):
            p50 = " / ".join(table.spread(f"pushes {image} {side} p50", "{:.0f}") for side in ("ours", "docker-registry"))
            table.ratio(f"push of {what} / docker-registry", f"pushes {image}", f"pushes {image} docker", 2, "pushes/s", f"p50 {p50} ms")
