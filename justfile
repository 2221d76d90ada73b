# Each habit a one-liner; the scripts need no just.

# The main job: all a newcomer needs, from one terminal.
dev *arguments:
    scripts/dev {{arguments}}

# Every test; or some: format arrows dependencies lint generated rust e2e chaos image.
test *steps:
    scripts/test {{steps}}

# Format, the dependencies, lints.
lint:
    scripts/test format arrows dependencies lint

# Bring openapi/ up to date.
openapi:
    scripts/openapi

# Bring .sqlx/ up to date.
sqlx-prepare:
    scripts/sqlx-prepare

# Breaks a running system while people work with it, and checks every answer.
chaos *arguments:
    scripts/chaos {{arguments}}

# Pushes, pulls and deletes beside collection on two nodes, and misses nothing.
soak *arguments:
    scripts/soak {{arguments}}

# The measurements of docs/benchmarks.md.
bench *arguments:
    bench/run {{arguments}}
