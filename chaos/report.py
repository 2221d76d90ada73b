"""What a run did and what it found, to be printed and kept."""

from __future__ import annotations

import datetime
import pathlib
from collections import Counter

from .checker import Violation
from .history import History, Verdict

VIOLATIONS_SHOWN = 10
DOCUMENT = pathlib.Path(__file__).resolve().parents[1] / "docs/reliability.md"
RUNS_HEAD = ["| day | run | changes | requests | pushes and pulls | faults | violations |", "|---|---|---|---|---|---|---|"]


def summary(history: History, faults: Counter[str], left_out: int, violations: list[Violation]) -> list[str]:
    """The counts, as lines."""
    propagation = Counter(change.propagation or change.outcome.value for change in history.changes)
    verdicts = Counter(answer.verdict for answer in history.answers if answer.node != "control-plane")
    looks = sum(1 for answer in history.answers if answer.node == "control-plane")
    acknowledged = sum(1 for push in history.pushes if push.acknowledged)
    found = Counter(pull.found for pull in history.pulls)
    return [
        f"changes: {len(history.changes)} ({_told(propagation)})",
        f"requests at nodes: {sum(verdicts.values())} ({verdicts[Verdict.ACCEPTED]} accepted, {verdicts[Verdict.REFUSED]} refused, "
        f"{verdicts[Verdict.NONE]} without a verdict); looks at the control plane: {looks}",
        f"pushes: {len(history.pushes)} ({acknowledged} acknowledged); pulls: {len(history.pulls)} ({_told(found)})",
        f"faults: {sum(faults.values())} ({_told(faults)}); left out, since nothing was whole enough: {left_out}",
        f"violations: {len(violations)}" + (f" ({_told(Counter(each.rule for each in violations))})" if violations else ""),
    ]


def row(what: str, history: History, faults: Counter[str], violations: list[Violation]) -> str:
    """A run as a row of the table that is kept."""
    requests = sum(1 for answer in history.answers if answer.node != "control-plane")
    acknowledged = sum(1 for push in history.pushes if push.acknowledged)
    complete = sum(1 for change in history.changes if change.propagation == "complete")
    content = f"{acknowledged} and {len(history.pulls)}"
    return (
        f"| {datetime.date.today()} | {what} | {len(history.changes)} ({complete} complete) | {requests} | {content} "
        f"| {sum(faults.values())} of {len(faults)} kinds | {len(violations)} |"
    )


def keep_run(what: str, line: str) -> None:
    """Puts a run into the table of runs, in the place of the last one of the same name."""
    text = DOCUMENT.read_text(encoding="utf-8")
    kept = text.partition("<!-- runs -->\n")[2].partition("<!-- end -->")[0].splitlines()[len(RUNS_HEAD) :]
    keep("runs", [*RUNS_HEAD, *(other for other in kept if f"| {what} |" not in other), line])


def keep(section: str, lines: list[str]) -> None:
    """Replaces a section of docs/reliability.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, mark, rest = text.partition(f"<!-- {section} -->\n")
    after = rest.partition("<!-- end -->")[2]
    DOCUMENT.write_text(before + mark + "\n".join(lines) + "\n<!-- end -->" + after, encoding="utf-8")


def details(violations: list[Violation]) -> list[str]:
    """The first violations of each rule, with what the checker knows."""
    lines, shown = [], Counter[str]()
    for violation in violations:
        shown[violation.rule] += 1
        if shown[violation.rule] <= VIOLATIONS_SHOWN:
            lines.append(f"  {violation.rule}: {violation.text}")
    return lines


def _told(counts: Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0]))))
