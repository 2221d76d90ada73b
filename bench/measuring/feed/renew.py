"""Renewal of a password until it is in force at every node: real nodes, many simulated ones, and some of these far away."""

from .nodes import Swarm
from .site import Site

RENEWALS = 300
# With far-away nodes each takes a round trip.
RENEWALS_FAR = 150
OLD_PASSWORDS_TRIED = 5
REAL_NODES = 3
SIMULATED = 100
FAR_AWAY = 10
ROUND_TRIP_MILLISECONDS = 80
REPETITIONS = 3


def renew_nodes(run):
    with Site(run, REAL_NODES) as site:

        def measure(name, count):
            for _ in run.repetitions(REPETITIONS):
                run.settle()
                taken = site.renew_everywhere(run.sized(count, 10), OLD_PASSWORDS_TRIED)
                run.record_latencies(name, taken)

        measure("renew 3 nodes", RENEWALS)
        simulated = run.sized(SIMULATED, FAR_AWAY)
        run.record("renew simulated nodes", simulated)
        swarm = site.swarm(Swarm(site.installation, run.example("node_swarm"), simulated))
        swarm.start()
        measure("renew simulated", RENEWALS)
        swarm.positions()
        swarm.stop()
        swarm.start(FAR_AWAY, ROUND_TRIP_MILLISECONDS)
        measure("renew far away", RENEWALS_FAR)
        swarm.positions()
