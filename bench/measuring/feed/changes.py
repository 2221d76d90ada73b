"""Changes a second with many nodes in their region, and with none: two installations, measured in turns.

In both, the node that `wharfinger dev` starts belongs to another region: it hears of each revision and has nothing to apply.
"""

from ..installation import API_VERSION
from ..machine import Failure, processor_seconds
from ..web import load
from .nodes import Swarm
from .site import CONTROL_PLANE, Site

MEASURED_REGION = "northeurope"
SIMULATED = 100
CLIENTS = 128
# More than clients, so that they do not wait for each other's rows.
REGISTRIES = 256
REPETITIONS = 5


def changes(run):
    simulated = run.sized(SIMULATED, 5)
    run.record("changes nodes", simulated)
    with Side(run) as with_nodes, Side(run) as without:
        swarm = Swarm(with_nodes.installation, run.example("node_swarm"), simulated, MEASURED_REGION, light=True)
        with_nodes.swarm(swarm).start()
        for repetition in run.repetitions(REPETITIONS):
            sides = [("changes with nodes", with_nodes), ("changes without", without)]
            at = repetition % 2
            for name, side in sides[at:] + sides[:at]:
                run.settle()
                run.record(name, side.changes_per_second(name))
            swarm.positions()


class Side(Site):
    def __init__(self, run):
        super().__init__(run)
        self.installation.admin("region", "create", MEASURED_REGION)
        registries = [self.control_plane.new_registry(MEASURED_REGION) for _ in range(run.sized(REGISTRIES, 8))]
        names = [registry["name"] for registry in registries]
        self.settings = {
            "NAMES": " ".join(names),
            "PATH": self.control_plane.registry_path(""),
            "QUERY": f"/regenerateCredential?api-version={API_VERSION}",
        }

    def changes_per_second(self, name):
        control_plane = self.installation.pid(CONTROL_PLANE)
        before = processor_seconds(control_plane)
        settings = self.settings | {"AUTHORIZATION": self.headers()["Authorization"]}
        result = load("renew.lua", self.control_plane.address, CLIENTS, self.run.options.seconds, settings)
        if result["complete"] < result["answered"]:
            raise Failure(f"not every change was complete: {result}")
        taken = processor_seconds(control_plane) - before
        self.run.record(f"{name} p99", result["p99"] / 1000)
        self.run.record(f"{name} control plane", taken / result["answered"] * 1000)
        return result["per_second"]
