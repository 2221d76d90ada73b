# Installs Debian packages for the scripts that source it, or says what to type.

# usage: packages_install PACKAGE…
# As root or with password-less sudo the missing ones are installed; otherwise the one command is printed and 1 returned.
# Services that packages bring (Postgres, docker) are not started: the scripts run their own, private ones.
packages_install() {
    local missing=() package sudo=
    if ! command -v dpkg-query >/dev/null; then
        echo "this is not Debian: please install what these Debian packages contain: $*" >&2
        return 0
    fi
    for package in "$@"; do
        if [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            missing+=("$package")
        fi
    done
    if [ ${#missing[@]} = 0 ]; then
        return 0
    fi
    if [ "$(id -u)" != 0 ]; then
        if sudo -n true 2>/dev/null; then
            sudo=sudo
        else
            echo "some packages are missing; please type:" >&2
            echo "    sudo apt-get install --no-install-recommends ${missing[*]}" >&2
            return 1
        fi
    fi
    echo "installing ${missing[*]}"
    packages_without_services $sudo "${missing[@]}"
}

# usage: packages_without_services [sudo] PACKAGE…
packages_without_services() (
    sudo=
    if [ "$1" = sudo ]; then
        sudo=sudo
        shift
    fi
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap '$sudo rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
        $sudo chmod +x $policy
    fi
    $sudo apt-get update -qq
    # The variable goes after sudo, which would drop it from the environment; stdin is not ours to give away.
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
)
