# A private Postgres for a script: its own directory, its own port, gone when the script ends.
# Sourced, not run. After `postgres_start`, POSTGRES_URL is the URL of its superuser on 127.0.0.1;
# the caller's EXIT trap calls `postgres_stop`. Nothing here touches a Postgres that runs as a service.

POSTGRES_DIRECTORY=
POSTGRES_URL=

# Prints the directory of the newest installed Postgres server programs, or nothing.
postgres_programs() {
    local directory
    for directory in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin 2>/dev/null | sort -rV); do
        if [ -x "$directory/initdb" ]; then
            echo "$directory"
            return
        fi
    done
    if command -v initdb >/dev/null; then
        dirname "$(command -v initdb)"
    fi
}

# Postgres refuses to run as root, so root hands over to the user that Debian's package made.
postgres_as_user() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && runuser -u postgres -- env LC_ALL=C.UTF-8 "$@")
    else
        (cd / && env LC_ALL=C.UTF-8 "$@")
    fi
}

postgres_start() {
    local programs password port attempt
    programs=$(postgres_programs)
    if [ -z "$programs" ]; then
        echo "no Postgres server programs found; install them with: apt-get install postgresql" >&2
        return 1
    fi
    POSTGRES_DIRECTORY=$(mktemp -d "${TMPDIR:-/tmp}/wharfinger-postgres.XXXXXX")
    if [ "$(id -u)" = 0 ]; then
        chown postgres: "$POSTGRES_DIRECTORY"
    fi
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    # A here-string and no argument: arguments are for everybody to read.
    postgres_as_user sh -c "umask 077; cat >'$POSTGRES_DIRECTORY/password'" <<<"$password"
    if ! postgres_as_user "$programs/initdb" --pgdata="$POSTGRES_DIRECTORY/data" --username=postgres \
        --auth=scram-sha-256 --pwfile="$POSTGRES_DIRECTORY/password" --encoding=UTF8 --no-sync \
        >"$POSTGRES_DIRECTORY/initdb.log" 2>&1; then
        cat "$POSTGRES_DIRECTORY/initdb.log" >&2
        return 1
    fi
    # No free port can be reserved from a shell, so one is tried after the other until the server keeps it.
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if postgres_as_user "$programs/pg_ctl" start --wait --silent --pgdata="$POSTGRES_DIRECTORY/data" \
            --log="$POSTGRES_DIRECTORY/data/server.log" \
            --options="-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$POSTGRES_DIRECTORY -c fsync=off -c max_connections=200" \
            >/dev/null 2>&1; then
            export POSTGRES_URL="postgres://postgres:$password@127.0.0.1:$port/postgres"
            return 0
        fi
    done
    echo "the private Postgres did not start; its log:" >&2
    postgres_as_user tail -n 20 "$POSTGRES_DIRECTORY/data/server.log" >&2
    return 1
}

postgres_stop() {
    if [ -z "$POSTGRES_DIRECTORY" ]; then
        return 0
    fi
    if [ -e "$POSTGRES_DIRECTORY/data/postmaster.pid" ]; then
        postgres_as_user "$(postgres_programs)/pg_ctl" stop --silent --mode=immediate \
            --pgdata="$POSTGRES_DIRECTORY/data" >/dev/null 2>&1 || true
    fi
    rm -rf "$POSTGRES_DIRECTORY"
    POSTGRES_DIRECTORY=
}
