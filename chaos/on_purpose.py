"""Faults put into a test build on purpose, each with the run that provokes it. A checker that does not find one of them is worth nothing."""

from __future__ import annotations

import dataclasses
import pathlib

from .faults import Planned
from .run import Settings
from .system import Options

VARIABLE = "WHARFINGER_FAULT"


@dataclasses.dataclass(frozen=True)
class OnPurpose:
    """A fault in the program, and what has to happen for it to show."""

    name: str
    what: str
    seconds: float
    planned: tuple[Planned, ...] = ()
    control_planes: int = 2
    staleness_bound: int | None = None


ALL = (
    OnPurpose("acknowledge-before-applying", "a node says that it has applied a change, and then applies it", 8.0),
    OnPurpose("token-outlives-credential", "a token is good although what it came from is not", 8.0),
    OnPurpose("head-bounded-read", "documents are read up to a head that was read before", 15.0),
    OnPurpose(
        "snapshot-merged",
        "a snapshot is put over what a node has instead of replacing it",
        16.0,
        (Planned(2.0, "restore-database", 0, 6.0, 0.9),),
    ),
    OnPurpose(
        "waiter-ignores-joined-node",
        "a change waits for the nodes of a list that was read before it was made",
        16.0,
        (Planned(2.0, "join-node", 0, 4.0, 1.0), Planned(8.0, "join-node", 0, 4.0, 1.0)),
        control_planes=1,
    ),
    OnPurpose(
        "freshness-from-marks-arrival",
        "a node with a bound counts from when a mark arrived",
        32.0,
        (Planned(3.0, "hold-back-node", 0, 24.0, 0.9),),
        staleness_bound=10,
    ),
)


def settings(fault: OnPurpose, seed: int, binary: pathlib.Path, is_on: bool) -> Settings:
    """The run that provokes the fault; with `is_on` false the same run of the same program without it, in which nothing may be found."""
    options = Options(
        {"westus": 3},
        fault.control_planes,
        fault.staleness_bound,
        {VARIABLE: fault.name} if is_on else {},
    )
    return Settings(seed, fault.seconds, binary, options, list(fault.planned))
