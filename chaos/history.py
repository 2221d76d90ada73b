"""What happened in a run: changes, answers, pushes, pulls and faults, each with its times.

All times are of one monotonic clock, in seconds: the run is one process. A start is taken before anything is sent and an end
after all has been read, so the true moment always lies between the two.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from enum import Enum

FOREVER = float("inf")
# The control plane answers from the database itself, so it is checked as a node that has each change at its answer.
CONTROL_PLANE = "control-plane"

Value = str


class Outcome(Enum):
    """Whether a change took place."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not-committed"
    # The call broke, and nothing that was seen later told.
    UNKNOWN = "unknown"


@dataclasses.dataclass
class Change:
    """One call that changes what nodes know. `effects` gives the new value of each register that it writes."""

    number: int
    what: str
    start: float
    end: float
    effects: Mapping[str, Value]
    outcome: Outcome
    by: str = ""
    status: int | None = None
    propagation: str | None = None
    revision: int | None = None
    missing: frozenset[str] = frozenset()
    # The regions whose nodes must have it; None: all.
    regions: frozenset[str] | None = None
    # How many restores of the database came before it.
    generation: int = 0

    def reaches(self, node: str, region: str | None) -> bool:
        """Whether its answer promised that this node has it."""
        if self.regions is not None and region is not None and region not in self.regions:
            return False
        if self.propagation == "complete":
            return True
        return self.propagation == "partial" and node not in self.missing


@dataclasses.dataclass(frozen=True)
class Literal:
    """A register has this value."""

    register: str
    value: Value


# All must hold; of each, one literal is enough.
Condition = tuple[tuple[Literal, ...], ...]


class Verdict(Enum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    # No answer, or one that says nothing about the credential (503).
    NONE = "none"


@dataclasses.dataclass
class Answer:
    """A request with a credential: it is to be accepted exactly while `condition` holds at the node."""

    number: int
    what: str
    node: str
    start: float
    end: float
    condition: Condition
    verdict: Verdict
    status: int | None = None
    # A token dies for good with what it came from: it may be refused for what happened since then.
    refusable_since: float | None = None
    # The registry's home, when the node is of another region and had to hand the request on.
    home: str | None = None
    detail: str = ""


@dataclasses.dataclass
class Push:
    """An image with a tag of its own. Acknowledged: its manifest was answered with 201."""

    number: int
    registry: Literal
    repository: str
    tag: str
    digest: str
    node: str
    start: float
    end: float
    acknowledged: bool


@dataclasses.dataclass
class Pull:
    """What a node gave for a pushed image to a caller who may pull."""

    number: int
    push: int
    node: str
    start: float
    end: float
    # "identical", "absent" (404), "different", or "none" (no answer about the content).
    found: str
    detail: str = ""


@dataclasses.dataclass
class Fault:
    """Something broken on purpose. `isolates`: nodes that could not hear of a change, nor act, from start to end."""

    number: int
    kind: str
    target: str
    start: float
    end: float = FOREVER
    isolates: frozenset[str] = frozenset()


@dataclasses.dataclass
class History:
    """Everything that was recorded, in the order of its ends."""

    # Region of each node, by name.
    nodes: dict[str, str] = dataclasses.field(default_factory=dict)
    # Bound on staleness of a node, in seconds; a node that is not here has none.
    bounds: dict[str, float] = dataclasses.field(default_factory=dict)
    changes: list[Change] = dataclasses.field(default_factory=list)
    answers: list[Answer] = dataclasses.field(default_factory=list)
    pushes: list[Push] = dataclasses.field(default_factory=list)
    pulls: list[Pull] = dataclasses.field(default_factory=list)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    # What is wrong whatever the history says: (time, what), such as an answer 500 or a node's copy that diverged.
    incidents: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    # Head at the beginning and the end of each generation: (first, last).
    heads: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    # Revisions of each generation that others published: nodes that joined, and the like.
    foreign_revisions: dict[int, int] = dataclasses.field(default_factory=dict)
    next_number: int = 1

    def number(self) -> int:
        number = self.next_number
        self.next_number += 1
        return number

    def write(self, path: pathlib.Path) -> None:
        """As lines of JSON, for whoever looks into a violation."""
        with path.open("w", encoding="utf-8") as file:
            for kind in ("changes", "answers", "pushes", "pulls", "faults"):
                for item in getattr(self, kind):
                    file.write(json.dumps({"record": kind} | dataclasses.asdict(item), default=_plain) + "\n")
            for time, what in self.incidents:
                file.write(json.dumps({"record": "incidents", "time": time, "what": what}) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(type(value).__name__)


Clock = Callable[[], float]
