"""The lines of the rows about the feed."""


def renew_nodes(table):
    def line(what, name, bound):
        if table.has(f"{name} p99"):
            more = f"p50 {table.spread(f'{name} p50', '{:.1f}')} ms, maximum {table.spread(f'{name} maximum', '{:.1f}')} ms"
            table.at_most(what, f"{name} p99", bound, "ms", more)

    line("`regenerateCredential` to `complete`, 3 real nodes that acknowledge after their durable write, p99", "renew 3 nodes", 50)
    if table.has("renew simulated nodes"):
        simulated = table.median("renew simulated nodes")
        line(f"the same, and {simulated} simulated nodes, p99", "renew simulated", 50)
        line("the same, ten of these 80 ms of round trip away, p99", "renew far away", 80 + 50)


def rolling(table):
    if not table.has("rolling changes"):
        return
    total = {name: sum(table.samples[f"rolling {name}"]) for name in ("changes", "complete", "named", "wrong")}
    sides = (
        f"{total['changes']:,} changes: {total['complete']:,} `complete`, each held against every node; "
        f"{total['named']:,} others, each naming the absent node and no other"
    )
    reached = "yes" if total["wrong"] == 0 else "**no**"
    what = "nodes restarted one after the other, then one stopped for 14 s: answers that were wrong"
    table.row(what, "0", f"**{total['wrong']}**", reached, sides)
    what = "the same: from a node's return until a change is `complete`, longest"
    table.at_most(what, "rolling return milliseconds", 1000, "ms", f"{len(table.samples['rolling changes'])} returns", of=max)


def changes(table):
    if not table.has("changes nodes"):
        return
    what = f"configuration changes a second with {table.median('changes nodes')} simulated nodes connected / with none"
    both = [
        " / ".join(table.spread(f"{side} {figure}", form) for side in ("changes with nodes", "changes without"))
        for figure, form in (("p99", "{:.0f}"), ("control plane", "{:.2f}"))
    ]
    more = f"p99 {both[0]} ms; the control plane's processor time {both[1]} ms a change"
    table.ratio(what, "changes with nodes", "changes without", 0.8, "changes/s", more)


def scale(table):
    if not table.has("scale mebibytes"):
        return
    documents = f"{table.samples['scale documents'][0]:,} documents"
    more = f"{documents}; at its highest {table.spread('scale peak mebibytes')} MiB; just after they came {table.median('scale after publishing mebibytes'):,.0f} MiB"
    what = "node with 100,000 registries, 100,000 principals and 1,000,000 role assignments: memory after a restart"
    table.at_most(what, "scale mebibytes", 1024, "MiB", more, "{:,.0f}")
    more = f"after `kill -9` {table.spread('scale killed serves seconds', '{:.1f}')} s; beside a control plane that answers {table.spread('scale beside seconds', '{:.1f}')} s"
    what = "the same: restart until it serves from its copy, no control plane answering"
    table.at_most(what, "scale serves seconds", 10, "s", more)
    more = f"after `kill -9` {table.spread('scale killed current seconds', '{:.2f}')} s"
    what = "the same: from the control plane's answering again until a change is `complete`"
    table.at_most(what, "scale current seconds", 1, "s", more, "{:.2f}")


def reconnect(table):
    if not table.has("reconnect nodes"):
        return
    nodes = table.median("reconnect nodes")
    more = (
        f"the next one answered after {table.spread('reconnect serving seconds', '{:.1f}')} s, "
        f"the first change was `complete` after {table.spread('reconnect complete seconds', '{:.1f}')} s"
    )
    what = f"{nodes} simulated nodes lose their control plane (`kill -9`): until all are current with the next one"
    table.at_most(what, "reconnect current seconds", 30, "s", more)
    ratios = [during / rest for during, rest in zip(table.samples["reconnect meanwhile p99"], table.samples["reconnect rest p99"])]
    ratio = sorted(ratios)[len(ratios) // 2]
    sides = (
        f"{table.spread('reconnect meanwhile p99', '{:.1f}')} / {table.spread('reconnect rest p99', '{:.1f}')} ms; "
        f"{table.spread('reconnect reads')} reads meanwhile, the longest {table.spread('reconnect meanwhile maximum', '{:.0f}')} ms"
    )
    measured = f"**{ratio:.1f} ×** ({min(ratios):.1f}–{max(ratios):.1f})"
    table.row("GET of a registry meanwhile / at rest, p99", "≤ 5 ×", measured, "yes" if ratio <= 5 else "**no**", sides)
    more = f"after they reconnected {table.spread('reconnect control plane after')} MiB"
    table.at_most(f"control plane with {nodes} nodes: memory", "reconnect control plane", 100, "MiB", more)


# In the order of the table, behind the other rows.
ROWS = {"renew-nodes": renew_nodes, "rolling": rolling, "changes": changes, "scale": scale, "reconnect": reconnect}
