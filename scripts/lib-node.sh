# Packages of npm for the scripts that source it, installed once per machine and content of the lock file. Needs scripts/lib-python.sh
# for `cache` and scripts/lib-packages.sh.

# usage: node_environment DIRECTORY: installs what DIRECTORY/package-lock.json pins, outside the clone, beside a copy of the scripts
# in DIRECTORY, and prints where.
node_environment() {
    local source=$1 directory
    if ! command -v npm >/dev/null; then
        packages_install nodejs npm >&2
    fi
    directory=$cache/e2e-node/$(cat "$source"/package*.json "$source"/*.mjs | sha256sum | cut -c1-16)
    if [ ! -e "$directory/.complete" ]; then
        echo "installing $source/package-lock.json into $directory" >&2
        rm -rf "$directory"
        mkdir -p "$directory"
        cp "$source"/* "$directory"
        npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$directory" >&2
        touch "$directory/.complete"
    fi
    echo "$directory"
}
