"""Pages of 10,000 tags, and the catalog of 10,000 repositories."""

from ..feed.run import quantile
from .site import REPOSITORY, Site

COUNT, PAGE, CATALOG_PAGE = 10_000, 100, 1000
FILLING_CLIENTS = 16
READS, CATALOG_READS = 50, 3
EMPTY_INDEX = "sha256:0000000000000000000000000000000000000000000000000000000000000000"


def measure(run):
    count = run.sized(COUNT, 2 * CATALOG_PAGE)
    with Site(run) as site:
        ours, docker = site.as_admin, site.docker
        ours.load("tags", "--count", count, repository="bench/tags", clients=FILLING_CLIENTS)
        ours.load("repositories", "--count", count, repository="catalog/r", clients=FILLING_CLIENTS)
        docker.load("push", "--blobs", 2, "--blob-bytes", 1024)
        fill(site.docker_storage / "docker/registry/v2/repositories", count)
        tags, catalog = "/v2/bench/tags/tags/list", "/v2/_catalog"
        last = f"&last=v{count - PAGE - 1:06}"

        def read(what, side, path, count, *more):
            result = side.load("read", "--path", path, "--count", count, *more)
            run.record(f"listings {what} bytes", result["bytes"])
            return result["milliseconds"]["p50"]

        for repetition in run.repetitions(run.options.repetitions):
            site.sides(
                repetition,
                ("listings first", lambda: read("first", ours, f"{tags}?n={PAGE}", READS)),
                ("listings last", lambda: read("last", ours, f"{tags}?n={PAGE}{last}", READS)),
                ("listings docker tags", lambda: read("docker tags", docker, f"{tags}?n={PAGE}", READS // 5)),
            )
            site.sides(
                repetition,
                ("listings catalog", lambda: read("catalog", ours, f"{catalog}?n={CATALOG_PAGE}", CATALOG_READS, "--follow")),
                ("listings docker catalog", lambda: read("docker catalog", docker, f"{catalog}?n={CATALOG_PAGE}", 1, "--follow")),
            )


def fill(repositories, count):
    """Writes what docker-registry lays out for so many tags and repositories; to push them would take minutes."""
    def revision(directory, name, tag):
        link = directory / "_manifests/tags" / tag / "current/link"
        link.parent.mkdir(parents=True)
        link.write_text(name)

    for number in range(count):
        revision(repositories / "bench/tags", EMPTY_INDEX, f"v{number:06}")
        repository = repositories / f"catalog/r{number:06}"
        revision(repository, EMPTY_INDEX, "latest")
        (repository / "_layers").mkdir()
        (repository / "_uploads").mkdir()


def lines(table):
    if not table.has("listings first"):
        return
    for page in ("first", "last"):
        times_faster(
            table, f"the {page} page of {PAGE} of {COUNT:,} tags / docker-registry, which gives all of them at once",
            f"listings {page}", "listings docker tags", None,
        )  # fmt: skip
    what = f"the catalog of {COUNT:,} repositories, in pages of {CATALOG_PAGE:,} / docker-registry"
    times_faster(table, what, "listings catalog", "listings docker catalog", 10)


def times_faster(table, what, ours, theirs, goal):
    """How often ours is done while theirs is once."""
    ratios = sorted(other / mine for mine, other in zip(table.samples[ours], table.samples[theirs]))
    ratio = quantile(ratios, 0.5)
    size = " / ".join(f"{table.median(f'{name} bytes'):,.0f}" for name in (ours, theirs))
    sides = f"{table.spread(ours, '{:,.1f}')} / {table.spread(theirs, '{:,.1f}')} ms, {size} bytes"
    reached = "–" if goal is None else "yes" if ratio >= goal else "**no**"
    shown = "–" if goal is None else f"≥ {goal} ×"
    table.row(what, shown, f"**{ratio:.1f} ×** ({ratios[0]:.1f}–{ratios[-1]:.1f})", reached, sides)
