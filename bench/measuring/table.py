"""The table: goal, measured ratio, absolute figures, spread."""

import pathlib
import statistics

from .machine import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- measured by bench/run: begin -->"
END = "<!-- measured by bench/run: end -->"


class Table:
    def __init__(self, samples):
        self.samples = samples
        self.lines = ["| what | goal | measured | reached | median (spread) of the sides |", "|---|---|---|---|---|"]

    def text(self):
        self._ratio(
            "GET of a registry / `pgbench -S`", "show product", "show pgbench", 0.15, "requests/s",
            f"p99 {self.median('show p99 milliseconds'):.1f} ms" if "show p99 milliseconds" in self.samples else "",
        )  # fmt: skip
        self._ratio("the same / `pgbench -S` over TLS", "show product", "show pgbench tls", 0.15, "requests/s")
        self._ratio("for comparison: the same / pgbench with the request's statement", "show product", "show same statement", None, "requests/s")  # fmt: skip
        creation = ""
        if "created" in self.samples:
            creation = (
                f"p50 {self.median('create p50 milliseconds'):.1f} ms, p99 {self.median('create p99 milliseconds'):.1f} ms; "
                f"{sum(self.samples['created']):,} registries, each in force at the node when answered"
            )
        self._ratio("creation of registries / pgbench with the same statements", "create product", "create pgbench", 0.5, "requests/s", creation)  # fmt: skip
        self._ratio("the same / pgbench over TLS", "create product", "create pgbench tls", 0.5, "requests/s")
        self._renewal()
        self._ratio("login at the token endpoint, admin account / nginx, static file", "login product", "login nginx", 0.1, "requests/s")  # fmt: skip
        self._ratio("the same, service principal", "login principal", "login nginx", 0.1, "requests/s")
        self._index()
        self._at_most("control plane at rest", "rest control plane", 40, "MiB", self._after("loaded control plane"))
        self._at_most("node at rest", "rest node", 40, "MiB", self._after("loaded node"))
        return "\n".join(self.lines)

    def median(self, name):
        return statistics.median(self.samples[name])

    def spread(self, name, form="{:,.0f}"):
        low, high = min(self.samples[name]), max(self.samples[name])
        return f"{form.format(self.median(name))} ({form.format(low)}–{form.format(high)})"

    def _row(self, what, goal, measured, reached, sides):
        self.lines.append(f"| {what} | {goal} | {measured} | {reached} | {sides} |")

    def _ratio(self, what, product, peer, goal, unit, more=""):
        if product not in self.samples or peer not in self.samples:
            return
        ratios = [ours / theirs for ours, theirs in zip(self.samples[product], self.samples[peer])]
        ratio = statistics.median(ratios)
        measured = f"**{ratio:.2f} ×** ({min(ratios):.2f}–{max(ratios):.2f})"
        sides = f"{self.spread(product)} / {self.spread(peer)} {unit}" + (f"; {more}" if more else "")
        if goal is None:
            self._row(what, "–", measured, "–", sides)
        else:
            self._row(what, f"≥ {goal} ×", measured, verdict(ratio >= goal), sides)

    def _at_most(self, what, name, bound, unit, more="", form="{:,.1f}"):
        if name not in self.samples:
            return
        value = self.median(name)
        measured = f"**{form.format(value)} {unit}**"
        sides = f"{self.spread(name, form)} {unit}" + (f"; {more}" if more else "")
        self._row(what, f"≤ {bound} {unit}", measured, verdict(value <= bound), sides)

    def _renewal(self):
        if "renew product" not in self.samples:
            return
        peer = ", ".join(
            f"{self.spread(name, '{:.1f}')} ms ({how})" for name, how in (("renew pgbench", "plain"), ("renew pgbench tls", "TLS"))
        )
        more = f"p50 {self.spread('renew product', '{:.1f}')} ms; the same transaction by pgbench, one client: p50 {peer}"
        self._at_most("`regenerateCredential`, request to response, p99", "renew product p99", 25, "ms", more)

    def _index(self):
        if "index decision median" not in self.samples:
            return
        more = (
            f"p99 {self.spread('index decision p99', '{:.2f}')} µs (means over runs of 100); "
            f"the index takes {self.median('index mebibytes'):.0f} MiB"
        )
        self._at_most("index of 100,000 registries: one decision", "index decision median", 2, "µs", more, "{:.2f}")
        more = f"median {self.spread('index change median', '{:.1f}')} µs, maximum {self.spread('index change maximum', '{:,.0f}')} µs"
        if "index addition maximum" in self.samples:
            more += f"; the longest of 400,000 additions {self.spread('index addition maximum', '{:,.0f}')} µs"
        self._at_most("the same: one change applied while decisions go on, p99", "index change p99", 1000, "µs", more)

    def _after(self, name):
        if name not in self.samples:
            return ""
        created = f" and {sum(self.samples['created']):,} registries more" if "created" in self.samples else ""
        return f"after the run's load{created}: {self.median(name):.0f} MiB"


def verdict(reached):
    return "yes" if reached else "**no**"


def keep(text):
    """Puts the result into docs/benchmarks.md, in the place of the last one."""
    document = DOCUMENT.read_text()
    before, found, rest = document.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{pathlib.Path(DOCUMENT).name} lacks the lines {BEGIN!r} and {END!r}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
