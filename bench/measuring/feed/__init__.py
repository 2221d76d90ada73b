"""The rows about the feed of configuration: many nodes, few, none, and nodes that come and go.

Each row is a function of a `Run` that makes an installation of its own, repeats what it measures and records every figure. What is in
`ROWS` can be asked for by name; `table` has the lines of each.
"""

from .changes import changes
from .reconnect import reconnect
from .renew import renew_nodes
from .rolling import rolling
from .scale import scale

ROWS = {
    "renew-nodes": renew_nodes,
    "rolling": rolling,
    "changes": changes,
    "scale": scale,
    "reconnect": reconnect,
}
