"""The rows about the registry node, each beside docker-registry or nginx with TLS and the same certificate.

Each row is a function of a `Run` that makes an installation of its own with one registry, starts the peers, and measures the sides one after
the other, in another order at each repetition. `lines` of its module are its lines of the table.
"""

from . import authorisation, blobs, collection, listings, manifests, memory, pulls, pushes

ROWS = {
    "registry-manifests": manifests,
    "registry-blobs": blobs,
    "registry-pushes": pushes,
    "registry-listings": listings,
    "registry-memory": memory,
    "registry-pulls": pulls,
    "registry-authorisation": authorisation,
    "registry-collection": collection,
}
MEASURES = {name: module.measure for name, module in ROWS.items()}
LINES = {name: module.lines for name, module in ROWS.items()}
