"""What each node may have believed, and when: the possible values of every register as windows of time.

A register is one fact with one value at a time: a password of a slot, whether an account is on, whether an assignment exists. Only one writer
changes a register, and only when the outcome of its last change is known, so its changes have an order. A node may hold a change's value
from the moment the call began, until a later change of that register is promised to be in force there.
"""

from __future__ import annotations

import bisect
from collections import defaultdict

from .history import CONTROL_PLANE, FOREVER, Answer, Change, Condition, History, Literal, Outcome

Window = tuple[float, float]


class Promises:
    """From when each change is in force at one node, by what the answers said.

    Revisions are dense and nodes take them in order: an answer that promises a revision promises all before it.
    """

    def __init__(self, node: str, region: str | None, changes: list[Change]) -> None:
        self._node = node
        kept = [change for change in changes if change.reaches(node, region)]
        self._by_revision: dict[int, tuple[list[int], list[float]]] = {}
        self._by_start: dict[int, tuple[list[float], list[float]]] = {}
        generations: dict[int, list[Change]] = defaultdict(list)
        for change in kept:
            generations[change.generation].append(change)
        self._first_end: dict[int, float] = {}
        for generation, of_it in generations.items():
            with_revision = [(change.revision, change.end) for change in of_it if change.revision is not None]
            self._by_revision[generation] = _suffix_minimum(with_revision)
            self._by_start[generation] = _suffix_minimum([(change.start, change.end) for change in of_it])
            self._first_end[generation] = min(change.end for change in of_it)

    def in_force(self, change: Change) -> float:
        """The moment from which the node must have this change, or `FOREVER`."""
        if change.outcome is not Outcome.COMMITTED:
            return FOREVER
        if self._node == CONTROL_PLANE:
            return change.end
        # A later epoch replaces all that a node has.
        candidates = [end for generation, end in self._first_end.items() if generation > change.generation]
        if change.revision is not None:
            candidates.append(_at_or_after(self._by_revision.get(change.generation), change.revision))
        # Whatever was published by a call that began when this one was over comes after it.
        candidates.append(_at_or_after(self._by_start.get(change.generation), change.end))
        return min(candidates, default=FOREVER)


def _suffix_minimum(pairs: list[tuple]) -> tuple[list, list[float]]:
    pairs = sorted(pairs)
    keys = [key for key, _ in pairs]
    ends = [end for _, end in pairs]
    for place in range(len(ends) - 2, -1, -1):
        ends[place] = min(ends[place], ends[place + 1])
    return keys, ends


def _at_or_after(table: tuple[list, list[float]] | None, key: float) -> float:
    if table is None:
        return FOREVER
    keys, ends = table
    place = bisect.bisect_left(keys, key)
    return ends[place] if place < len(ends) else FOREVER


class PromisesOfAny:
    """Of several nodes, any of which may have answered: in force once it is at each of them."""

    def __init__(self, promises: list[Promises]) -> None:
        self._promises = promises

    def in_force(self, change: Change) -> float:
        return max((each.in_force(change) for each in self._promises), default=FOREVER)


class Model:
    """The windows of every register at every node."""

    def __init__(self, history: History) -> None:
        self._regions = history.nodes
        self._changes = sorted(history.changes, key=lambda change: change.start)
        self._of_register: dict[str, list[Change]] = defaultdict(list)
        for change in self._changes:
            if change.outcome is Outcome.NOT_COMMITTED:
                continue
            for register in change.effects:
                self._of_register[register].append(change)
        self._promises: dict[str, Promises | PromisesOfAny] = {}
        self._windows: dict[tuple[str, str], list[tuple[Change, Window]]] = {}

    def promises(self, node: str) -> Promises | PromisesOfAny:
        """Of a node, or of several of which any may have answered (`any_of`)."""
        if node not in self._promises:
            each = [Promises(name, self._regions.get(name), self._changes) for name in node.split("+")]
            self._promises[node] = each[0] if len(each) == 1 else PromisesOfAny(each)
        return self._promises[node]

    def judges(self, answer: Answer) -> tuple[str, str]:
        """The node, or nodes any of which, let the caller in; and those that may have refused. A node asked for a registry of another region
        hands the request on to a node of that region, which decides; it may itself not know the registry yet, or not any more."""
        if answer.home is None:
            return answer.node, answer.node
        of_home = [node for node, region in sorted(self._regions.items()) if region == answer.home]
        return "+".join(of_home), "+".join([*of_home, answer.node])

    def windows(self, register: str, node: str) -> list[tuple[Change, Window]]:
        """Each change that may have written the register, with the time in which the node may hold its value."""
        key = (register, node)
        if key not in self._windows:
            promises = self.promises(node)
            result: list[tuple[Change, Window]] = []
            superseded = FOREVER
            for change in reversed(self._of_register.get(register, [])):
                if superseded > change.start:
                    result.append((change, (change.start, superseded)))
                superseded = min(superseded, promises.in_force(change))
            self._windows[key] = list(reversed(result))
        return self._windows[key]

    def may_hold(self, literal: Literal, node: str) -> list[Window]:
        """When the register may have had this value at the node. Before its first change it has none."""
        windows = self.windows(literal.register, node)
        return _union([window for change, window in windows if change.effects[literal.register] == literal.value])

    def may_fail(self, literal: Literal, node: str) -> list[Window]:
        """When the register may have had another value, or none, at the node."""
        register = literal.register
        others = [window for change, window in self.windows(register, node) if change.effects[register] != literal.value]
        # Nothing was known of the register until some change was in force.
        promises = self.promises(node)
        first = min((promises.in_force(change) for change in self._of_register.get(register, [])), default=FOREVER)
        return _union([*others, (-FOREVER, first)])

    def may_accept(self, condition: Condition, node: str) -> list[Window]:
        """When all of the condition may have held at once."""
        result: list[Window] = [(-FOREVER, FOREVER)]
        for clause in condition:
            held = _union([window for literal in clause for window in self.may_hold(literal, node)])
            result = _intersection(result, held)
        return result

    def may_refuse(self, condition: Condition, node: str) -> list[Window]:
        """When some part of the condition may have failed."""
        result: list[Window] = []
        for clause in condition:
            failed: list[Window] = [(-FOREVER, FOREVER)]
            for literal in clause:
                failed = _intersection(failed, self.may_fail(literal, node))
            result += failed
        return _union(result)


def meets(windows: list[Window], start: float, end: float) -> bool:
    """Whether a moment from start to end lies in one of the windows."""
    return any(begins <= end and start <= ends for begins, ends in windows)


def _union(windows: list[Window]) -> list[Window]:
    result: list[Window] = []
    for start, end in sorted(windows):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def _intersection(left: list[Window], right: list[Window]) -> list[Window]:
    result = []
    for one_start, one_end in left:
        for other_start, other_end in right:
            start, end = max(one_start, other_start), min(one_end, other_end)
            if start <= end:
                result.append((start, end))
    return sorted(result)
