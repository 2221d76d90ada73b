# Python environments for the scripts that source it, made once per machine and content of the requirements.

# Kept outside the clone, so that a fresh clone on the same machine starts fast.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wharfinger

# usage: python_environment REQUIREMENTS: makes the environment once per content of the file and prints its directory.
python_environment() {
    local requirements=$1 directory
    directory=$cache/e2e-venv/$(sha256sum "$requirements" | cut -c1-16)
    if [ ! -e "$directory/.complete" ]; then
        echo "installing $requirements into $directory" >&2
        rm -rf "$directory"
        mkdir -p "$directory"
        python3 -m venv "$directory" >&2
        "$directory/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2
        touch "$directory/.complete"
    fi
    echo "$directory"
}
