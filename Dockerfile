# One image for every role; what it runs is the command's first word: control-plane, registry-node, admin, migrate.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --locked --release --package wharfinger

FROM debian:bookworm-slim
# What the binary needs beside itself: libc and libgcc, which the base has, and the authorities that the system trusts.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home wharfinger \
    && install -d -o wharfinger -g wharfinger -m 0700 /var/lib/wharfinger /var/lib/wharfinger/node /srv/registry
COPY --from=build /source/target/release/wharfinger /usr/local/bin/wharfinger
USER wharfinger
WORKDIR /var/lib/wharfinger
ENTRYPOINT ["/usr/local/bin/wharfinger"]
CMD ["--help"]
