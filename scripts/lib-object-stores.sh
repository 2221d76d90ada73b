# Private object stores for a script: an S3 server (moto's, see scripts/object-stores/s3_server.py) and Azurite, each on a free port
# of loopback, in memory, gone when the script ends. Sourced, not run, after lib-packages.sh and lib-python.sh.
# After `object_stores_start`, WHARFINGER_TEST_S3_ENDPOINT and WHARFINGER_TEST_AZURE_ENDPOINT are their URLs; the caller's EXIT trap
# calls `object_stores_stop`.

azurite_version=3.37.0
object_stores_scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/object-stores
object_stores_directory=
object_stores_pids=()

# Prints the program of Azurite, installed once per machine and version.
azurite_program() {
    local directory=$cache/azurite-$azurite_version
    if [ ! -e "$directory/.complete" ]; then
        if ! command -v npm >/dev/null; then
            packages_install nodejs npm >&2
        fi
        echo "installing Azurite $azurite_version into $directory" >&2
        rm -rf "$directory"
        mkdir -p "$directory"
        npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$directory" "azurite@$azurite_version" >&2
        touch "$directory/.complete"
    fi
    echo "$directory/node_modules/azurite/dist/src/blob/main.js"
}

# usage: object_store_start NAME PATH COMMAND…: runs the command with a free port in the place of PORT, and sets `port`. It is ready
# when anything answers at PATH.
object_store_start() {
    local name=$1 path=$2 attempt pid
    shift 2
    # No free port can be reserved from a shell, so one is tried after the other until the server keeps it.
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        "${@//PORT/$port}" >"$object_stores_directory/$name.log" 2>&1 &
        pid=$!
        if object_store_answers "$pid" "http://127.0.0.1:$port$path"; then
            object_stores_pids+=("$pid")
            return 0
        fi
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    echo "the $name server of the tests did not start; its log:" >&2
    tail -n 20 "$object_stores_directory/$name.log" >&2
    return 1
}

# usage: object_store_answers PID URL: waits until the process answers there; fails when it ended or takes too long.
object_store_answers() {
    local attempt
    for attempt in $(seq 150); do
        if ! kill -0 "$1" 2>/dev/null; then
            return 1
        fi
        if python3 - "$2" <<'PYTHON' 2>/dev/null
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=2).close()
except urllib.error.HTTPError:
    pass
PYTHON
        then
            # Not somebody else on this port, while ours is about to end.
            kill -0 "$1" 2>/dev/null
            return
        fi
        sleep 0.2
    done
    return 1
}

object_stores_start() {
    local python azurite port
    python=$(python_environment "$object_stores_scripts/requirements.txt")/bin/python
    azurite=$(azurite_program)
    object_stores_directory=$(mktemp -d "${TMPDIR:-/tmp}/wharfinger-object-stores.XXXXXX")
    object_store_start s3 / "$python" "$object_stores_scripts/s3_server.py" --port PORT \
        --bucket wharfinger --bucket wharfinger-unconditional || return 1
    export WHARFINGER_TEST_S3_ENDPOINT=http://127.0.0.1:$port
    object_store_start azurite / node "$azurite" --blobHost 127.0.0.1 --blobPort PORT --inMemoryPersistence \
        --disableTelemetry --silent --disableProductStyleUrl || return 1
    export WHARFINGER_TEST_AZURE_ENDPOINT=http://127.0.0.1:$port/devstoreaccount1
    "$python" "$object_stores_scripts/azure_container.py" "$WHARFINGER_TEST_AZURE_ENDPOINT" wharfinger
}

object_stores_stop() {
    local pid
    for pid in ${object_stores_pids[@]+"${object_stores_pids[@]}"}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    object_stores_pids=()
    if [ -n "$object_stores_directory" ]; then
        rm -rf "$object_stores_directory"
        object_stores_directory=
    fi
}
