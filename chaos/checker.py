"""Holds every answer against the history. Each rule is one function that yields violations."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

from .history import CONTROL_PLANE, Answer, Change, Condition, Fault, History, Literal, Outcome, Push, Verdict
from .model import Model, meets

GONE = "gone"

# A control plane takes a node with a bound as fenced when the bound, a tenth and so many seconds have passed.
FENCED_AFTER = 1.1
FENCE_MARGIN = 3.0
# A node says each second, at least, what it has applied.
HEARD_WITHIN = 2.0


@dataclasses.dataclass(frozen=True)
class Violation:
    """Something that must not happen."""

    rule: str
    text: str


def check(history: History) -> list[Violation]:
    """Every violation, in the order of the rules."""
    model = Model(history)
    return [
        *stale_or_refused(history, model),
        *wrong_promises(history),
        *revisions(history),
        *content(history, model),
        *incidents(history),
    ]


def stale_or_refused(history: History, model: Model) -> Iterator[Violation]:
    """An acceptance needs a moment within the request at which the node may have believed the condition; a refusal one at which it
    may have believed that it fails."""
    for answer in history.answers:
        letting_in, refusing = model.judges(answer)
        if answer.verdict is Verdict.ACCEPTED:
            windows = model.may_accept(answer.condition, letting_in)
            if not meets(windows, answer.start, answer.end):
                rule = "lost-change" if answer.node == CONTROL_PLANE else "stale"
                yield Violation(rule, _told(answer, model))
        elif answer.verdict is Verdict.REFUSED:
            since = answer.start if answer.refusable_since is None else answer.refusable_since
            if not meets(model.may_refuse(answer.condition, refusing), since, answer.end):
                yield Violation("refused", _told(answer, model))


def wrong_promises(history: History) -> Iterator[Violation]:
    """A change is not complete while a node could not have heard of it: it was cut off, stopped or dead from before the call to its answer."""
    for change in history.changes:
        if change.propagation not in ("complete", "partial"):
            continue
        for fault in history.faults:
            if not (fault.start <= change.start and change.end <= fault.end):
                continue
            for node in sorted(fault.isolates):
                if change.reaches(node, history.nodes.get(node)) and not _may_be_fenced(history, node, fault, change.end):
                    yield Violation(
                        "wrong-complete",
                        f"change {change.number} ({change.what}) answered {change.propagation} at {change.end:.3f} without naming {node}, "
                        f"which was away since {fault.start:.3f} (fault {fault.number}, {fault.kind})",
                    )


def _may_be_fenced(history: History, node: str, fault: Fault, at: float) -> bool:
    """Whether a control plane may rightly take the node as refusing by itself. It counts from what it last heard of the node, which is shortly
    before the fault, unless something else was broken before."""
    bound = history.bounds.get(node)
    if bound is None:
        return False
    if at - fault.start >= bound * FENCED_AFTER + FENCE_MARGIN - HEARD_WITHIN:
        return True
    return any(
        other is not fault and other.start < fault.start and other.end > fault.start - bound for other in history.faults
    )


def revisions(history: History) -> Iterator[Violation]:
    """No revision twice, none skipped but for calls that broke, and in the order of calls that do not overlap."""
    for generation, (first, last) in enumerate(history.heads):
        changes = [change for change in history.changes if change.generation == generation]
        acknowledged = [change for change in changes if change.revision is not None]
        for revision, count in Counter(change.revision for change in acknowledged).items():
            if count > 1:
                yield Violation("revision-repeated", f"revision {revision} was given to {count} changes")
        yield from _order(acknowledged)
        known = {change.revision for change in acknowledged}
        skipped = [revision for revision in range(first + 1, last + 1) if revision not in known]
        # A call that broke, or whose change was only seen later, may have published one revision each.
        unexplained = len(skipped) - history.foreign_revisions.get(generation, 0)
        unexplained -= sum(1 for change in changes if change.revision is None and change.outcome is not Outcome.NOT_COMMITTED)
        if unexplained > 0:
            yield Violation("revision-skipped", f"{len(skipped)} revisions up to {last} were given to nobody: {skipped[:20]}")
        beyond = [revision for revision in known if revision is not None and revision > last]
        if beyond:
            yield Violation("revision-lost", f"revisions {sorted(beyond)[:20]} were given out, and the head is {last}")


def _order(changes: list[Change]) -> Iterator[Violation]:
    by_start = sorted(changes, key=lambda change: change.start)
    by_end = sorted(changes, key=lambda change: change.end)
    highest: Change | None = None
    ended = 0
    for change in by_start:
        while ended < len(by_end) and by_end[ended].end < change.start:
            if highest is None or (by_end[ended].revision or 0) > (highest.revision or 0):
                highest = by_end[ended]
            ended += 1
        if highest is not None and (change.revision or 0) < (highest.revision or 0):
            yield Violation(
                "revision-order",
                f"change {change.number} began after change {highest.number} had ended, and has revision {change.revision} "
                f"after {highest.revision}",
            )


def content(history: History, model: Model) -> Iterator[Violation]:
    """What was acknowledged is there, byte for byte, unless its registry may have been deleted; and all of it was asked for at the end."""
    pushes = {push.number: push for push in history.pushes}
    # A node that was behind may have stored it in the registry that had the name before; then it went with that one.
    certain = {push.number for push in history.pushes if _certainly_went_there(push, model)}
    seen = set()
    for pull in history.pulls:
        push = pushes[pull.push]
        seen.add(pull.push) if pull.found == "identical" else None
        if pull.found == "different":
            yield Violation("content-differs", f"pull {pull.number} of {push.repository}:{push.tag} at {pull.node}: {pull.detail}")
        if push.number not in certain:
            continue
        if pull.found == "identical" and not meets(model.may_accept(((push.registry,),), pull.node), pull.start, pull.end):
            yield Violation("content-resurrected", f"pull {pull.number} at {pull.node} found {push.tag} of {push.registry}, which is gone")
        if pull.found != "absent" or not push.acknowledged or push.end > pull.start:
            continue
        condition: Condition = ((push.registry,),)
        if not meets(model.may_refuse(condition, pull.node), pull.start, pull.end):
            yield Violation(
                "content-lost",
                f"pull {pull.number} at {pull.node}: {push.registry.value} {push.repository}:{push.tag} was acknowledged at {push.end:.3f} by "
                f"{push.node}, and is not there at {pull.start:.3f}: {pull.detail}",
            )
    for push in history.pushes:
        if push.acknowledged and push.number in certain and push.number not in seen and _is_there_at_the_end(push.registry, model):
            yield Violation("content-unseen", f"push {push.number} of {push.repository}:{push.tag} was never pulled whole")


def _certainly_went_there(push: Push, model: Model) -> bool:
    values = {
        change.effects[push.registry.register]
        for change, window in model.windows(push.registry.register, push.node)
        if meets([window], push.start, push.end)
    }
    return values - {GONE} == {push.registry.value}


def _is_there_at_the_end(registry: Literal, model: Model) -> bool:
    windows = model.may_refuse(((registry,),), CONTROL_PLANE)
    return not windows or windows[-1][1] != float("inf")


def incidents(history: History) -> Iterator[Violation]:
    """What is wrong whatever the history says."""
    for time, what in history.incidents:
        yield Violation("incident", f"at {time:.3f}: {what}")


def _told(answer: Answer, model: Model) -> str:
    """The answer, and what the node may have believed of each part."""
    lines = [
        f"answer {answer.number} of {answer.node} ({answer.what}) was {answer.verdict.value} ({answer.status} {answer.detail}) "
        f"between {answer.start:.3f} and {answer.end:.3f}"
    ]
    for clause in answer.condition:
        for literal in clause:
            lines.append(f"    needs {literal.register} = {literal.value}; the node may have held:")
            for change, (start, end) in model.windows(literal.register, model.judges(answer)[0])[-6:]:
                lines.append(
                    f"      {change.effects[literal.register]} from {start:.3f} to {end:.3f} "
                    f"(change {change.number}, ended {change.end:.3f}, {change.outcome.value}, {change.propagation}, "
                    f"revision {change.revision}, missing {sorted(change.missing)})"
                )
    return "\n".join(lines)
