"""Changes without pause while nodes are restarted one after the other, and while one is stopped for longer than its lease lasts."""

import threading
import time

from ..machine import Failure
from .site import Site

REAL_NODES = 3
ROUNDS = 2
# A lease lasts ten seconds; after it answers no longer wait for the node.
STOPPED_SECONDS = 14
STOPPED_PAUSE_SECONDS = 0.1
# So many changes follow each return.
CHANGES_AFTER = 20
RETURN_SECONDS = 30


class Absence(threading.Thread):
    """Ends a node and starts it again after a while, beside the changes."""

    def __init__(self, node, seconds):
        super().__init__(daemon=True)
        self.node = node
        self.seconds = seconds
        self.gone_at = self.started_at = self.back_at = self.failure = None

    def run(self):
        try:
            self.node.stop()
            self.gone_at = time.monotonic()
            time.sleep(self.seconds)
            # `wharfinger dev` starts its node by itself, so from here on it may be there.
            self.started_at = time.monotonic()
            self.node.start()
            self.back_at = self.node.wait_ready()
        except Exception as failure:
            self.failure = failure

    def covers(self, renewal):
        """Whether the node's process did not exist while this change was made and answered."""
        return self.gone_at is not None and self.gone_at < renewal.began and (self.started_at or renewal.answered) >= renewal.answered


def rolling(run):
    with Site(run, REAL_NODES) as site:
        ids = site.ids()
        for _ in run.repetitions(ROUNDS):
            for number, node in enumerate(site.nodes):
                observe(run, site, Absence(node, 0), number, ids[number])
            # The last one: `wharfinger dev` would start its own again.
            observe(run, site, Absence(site.nodes[-1], STOPPED_SECONDS), len(ids) - 1, ids[-1])


def observe(run, site, absence, absent, absent_id):
    """Changes from before the node ends until after it has come back, each held against every node."""
    renewals, wrong, after = [], 0, 0
    absence.start()
    deadline = time.monotonic() + absence.seconds + RETURN_SECONDS
    while after < CHANGES_AFTER:
        if absence.failure:
            raise absence.failure
        if time.monotonic() > deadline:
            raise Failure(f"no change is complete although the node is back: {renewals[-1]}")
        renewal = site.renew()
        renewals.append(renewal)
        wrong += judge(site, absence, renewal, absent, absent_id)
        if absence.back_at is not None and renewal.outcome == "complete" and renewal.answered > absence.back_at:
            after += 1
        if absence.seconds and absence.started_at is None:
            time.sleep(STOPPED_PAUSE_SECONDS)
    absence.join()
    run.record("rolling changes", len(renewals))
    run.record("rolling complete", sum(renewal.outcome == "complete" for renewal in renewals))
    run.record("rolling named", sum(renewal.outcome != "complete" for renewal in renewals))
    run.record("rolling wrong", wrong)
    # None when every answer after the return was complete.
    late = [r for r in renewals if r.outcome != "complete" and r.answered > absence.back_at]
    complete_at = min((r.answered for r in renewals if late and r.answered > late[-1].answered), default=absence.back_at)
    run.record("rolling return milliseconds", (complete_at - absence.back_at) * 1000)
    if absence.seconds:
        if not any(renewal.outcome == "partial" for renewal in renewals):
            raise Failure("no answer was partial although a node was stopped for longer than its lease")


def judge(site, absence, renewal, absent, absent_id):
    """How many of the answer's promises were broken: 0 or 1. An answer that is not complete must name the absent node and no other."""
    if renewal.outcome not in ("complete", "partial", "pending"):
        raise Failure(f"an answer says '{renewal.outcome}'")
    if renewal.outcome != "complete" and renewal.missing != {absent_id}:
        raise Failure(f"an answer is {renewal.outcome} and names {sorted(renewal.missing)}; absent is {absent_id}")
    if renewal.outcome == "pending":
        return 0
    is_wrong = renewal.outcome == "complete" and absence.covers(renewal)
    for number, door in enumerate(site.doors):
        accepts_old = site.accepts_old(door, renewal)
        accepts_new = door.accepts(site.registry["name"], renewal.new)
        if number != absent and None in (accepts_old, accepts_new):
            raise Failure("a node that nobody stopped does not serve")
        # With `partial` the absent node may still have the old state: the answer says so.
        is_promised = renewal.outcome == "complete" or number != absent
        is_wrong |= is_promised and (accepts_old is True or accepts_new is False)
    return int(is_wrong)
