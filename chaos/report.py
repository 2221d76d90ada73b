"""What a run did and what it found, to be printed and kept."""

from __future__ import annotations

from collections import Counter

from .checker import Violation
from .history import History, Verdict

VIOLATIONS_SHOWN = 10


def summary(history: History, faults: Counter[str], violations: list[Violation]) -> list[str]:
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
        f"faults: {sum(faults.values())} ({_told(faults)})",
        f"violations: {len(violations)}" + (f" ({_told(Counter(each.rule for each in violations))})" if violations else ""),
    ]


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
