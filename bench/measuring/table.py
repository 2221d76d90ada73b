"""The table: goal, measured ratio, absolute figures, spread; and the rows of earlier runs that stand beside those of this one."""

import re
import statistics

from . import access, forward, registry
from .feed import table as feed_table
from .machine import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- measured by bench/run: begin -->"
END = "<!-- measured by bench/run: end -->"
HEAD = ["| what | goal | measured | reached | median (spread) of the sides | run |", "|---|---|---|---|---|---|"]
# Which row a line belongs to; it is not shown.
ROW = re.compile(r"^\| .*<!-- ([a-z-]+) --> \|")
RUN = re.compile(r"^- run (\S+ \S+ \S+):")


class Table:
    """The lines of a run. `run` names it, for those who see the line beside others."""

    def __init__(self, samples, run):
        self.samples = samples
        self.run = run
        self.owner = None
        self.lines = []

    def text(self):
        return "\n".join([*HEAD, *self.all_lines()])

    def all_lines(self):
        self.lines = []
        for self.owner, lines_of in ALL_ROWS.items():
            lines_of(self)
        return self.lines

    def has(self, name):
        return name in self.samples

    def median(self, name):
        return statistics.median(self.samples[name])

    def spread(self, name, form="{:,.0f}"):
        low, high = min(self.samples[name]), max(self.samples[name])
        return f"{form.format(self.median(name))} ({form.format(low)}–{form.format(high)})"

    def row(self, what, goal, measured, reached, sides):
        self.lines.append(f"| {what} <!-- {self.owner} --> | {goal} | {measured} | {reached} | {sides} | {self.run} |")

    def ratio(self, what, product, peer, goal, unit, more=""):
        if product not in self.samples or peer not in self.samples:
            return
        ratios = [ours / theirs for ours, theirs in zip(self.samples[product], self.samples[peer])]
        ratio = statistics.median(ratios)
        measured = f"**{ratio:.2f} ×** ({min(ratios):.2f}–{max(ratios):.2f})"
        sides = f"{self.spread(product)} / {self.spread(peer)} {unit}" + (f"; {more}" if more else "")
        if goal is None:
            self.row(what, "–", measured, "–", sides)
        else:
            self.row(what, f"≥ {goal} ×", measured, verdict(ratio >= goal), sides)

    def at_most(self, what, name, bound, unit, more="", form="{:,.1f}", of=statistics.median):
        if name not in self.samples:
            return
        value = of(self.samples[name])
        measured = f"**{form.format(value)} {unit}**"
        sides = f"{self.spread(name, form)} {unit}" + (f"; {more}" if more else "")
        self.row(what, f"≤ {bound} {unit}", measured, verdict(value <= bound), sides)

    def after(self, name):
        if name not in self.samples:
            return ""
        created = f" and {sum(self.samples['created']):,} registries more" if "created" in self.samples else ""
        return f"after the run's load{created}: {self.median(name):.0f} MiB"


def verdict(reached):
    return "yes" if reached else "**no**"


def show(table):
    p99 = f"p99 {table.median('show p99 milliseconds'):.1f} ms" if table.has("show p99 milliseconds") else ""
    table.ratio("GET of a registry / `pgbench -S`", "show product", "show pgbench", 0.15, "requests/s", p99)
    table.ratio("the same / `pgbench -S` over TLS", "show product", "show pgbench tls", 0.15, "requests/s")
    what = "for comparison: the same / pgbench with the request's statement"
    table.ratio(what, "show product", "show same statement", None, "requests/s")


def create(table):
    creation = ""
    if table.has("created"):
        creation = (
            f"p50 {table.median('create p50 milliseconds'):.1f} ms, p99 {table.median('create p99 milliseconds'):.1f} ms; "
            f"{sum(table.samples['created']):,} registries, each in force at the node when answered"
        )
    what = "creation of registries / pgbench with the same statements"
    table.ratio(what, "create product", "create pgbench", 0.5, "requests/s", creation)
    table.ratio("the same / pgbench over TLS", "create product", "create pgbench tls", 0.5, "requests/s")


def renew(table):
    if not table.has("renew product"):
        return
    peer = ", ".join(
        f"{table.spread(name, '{:.1f}')} ms ({how})" for name, how in (("renew pgbench", "plain"), ("renew pgbench tls", "TLS"))
    )
    more = f"p50 {table.spread('renew product', '{:.1f}')} ms; the same transaction by pgbench, one client: p50 {peer}"
    table.at_most("`regenerateCredential`, request to response, p99", "renew product p99", 25, "ms", more)


def login(table):
    what = "login at the token endpoint, admin account / nginx, static file"
    table.ratio(what, "login product", "login nginx", 0.1, "requests/s")
    table.ratio("the same, service principal", "login principal", "login nginx", 0.1, "requests/s")


def index(table):
    if not table.has("index decision median"):
        return
    more = (
        f"p99 {table.spread('index decision p99', '{:.2f}')} µs (means over runs of 100); "
        f"the index takes {table.median('index mebibytes'):.0f} MiB"
    )
    table.at_most("index of 100,000 registries: one decision", "index decision median", 2, "µs", more, "{:.2f}")
    more = f"median {table.spread('index change median', '{:.1f}')} µs, maximum {table.spread('index change maximum', '{:,.0f}')} µs"
    if table.has("index addition maximum"):
        more += f"; the longest of 400,000 additions {table.spread('index addition maximum', '{:,.0f}')} µs"
    table.at_most("the same: one change applied while decisions go on, p99", "index change p99", 1000, "µs", more)


def rest(table):
    table.at_most("control plane at rest", "rest control plane", 40, "MiB", table.after("loaded control plane"))
    table.at_most("node at rest", "rest node", 40, "MiB", table.after("loaded node"))


# In the order of the table.
ROWS = {"show": show, "create": create, "renew": renew, "login": login, "index": index, "rest": rest}
ALL_ROWS = {**ROWS, **feed_table.ROWS, "forward": forward.lines, "access": access.lines, **registry.LINES}


def keep(text, measured_rows):
    """Puts the result into docs/benchmarks.md. Rows that this run did not measure stay, with the runs that they came from."""
    document = DOCUMENT.read_text()
    before, found, rest_of = document.partition(BEGIN)
    kept, ended, after = rest_of.partition(END)
    if not found or not ended:
        raise ValueError(f"{DOCUMENT.name} lacks the lines {BEGIN!r} and {END!r}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{merge(kept, text, measured_rows)}\n\n{END}{after}")


def merge(kept, text, measured_rows):
    """Both are bullets and a table. The bullets about the machine are those of the last run; each run has one of its own besides."""
    old = [line for line in kept.splitlines() if row_of(line) not in measured_rows]
    new = text.splitlines()
    lines = [line for line in old + new if row_of(line)]
    order = list(ALL_ROWS)
    lines.sort(key=lambda line: order.index(row_of(line)) if row_of(line) in order else len(order))
    runs = {match.group(1): line for line in old + new if (match := RUN.match(line))}
    runs = [line for run, line in runs.items() if any(entry.endswith(f"| {run} |") for entry in lines)]
    machine = [line for line in new if line.startswith("- ") and not RUN.match(line)]
    return "\n".join([*machine, *runs, "", *HEAD, *lines])


def row_of(line):
    match = ROW.match(line)
    return match and match.group(1)
