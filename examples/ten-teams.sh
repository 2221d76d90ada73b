#!/usr/bin/env bash
# Ten teams, each with a resource group, a registry and a service principal for its builds.
# Needs an `az` that is logged in as an Owner of the subscription (`wharfinger dev` prints the lines).
#
#   examples/ten-teams.sh
#
# It prints one `docker login` line for each principal it makes. Run again, it makes what is missing and leaves the rest
# as it is: a principal that exists keeps its secret, which nobody can read again.
set -euo pipefail

az=${AZ:-az}
location=${LOCATION:-westus}
prefix=${PREFIX:-team}
teams=${TEAMS:-10}

for number in $(seq --format=%02g "$teams"); do
    team=$prefix$number
    echo "== $team" >&2

    "$az" group create --name "$team" --location "$location" --tags "team=$team" --output none
    registry=$("$az" acr create --name "${team}images" --resource-group "$team" --sku Basic \
        --query '[id, loginServer]' --output tsv | paste --serial)
    registry_id=${registry%%$'\t'*} login_server=${registry##*$'\t'}

    # The Reader of the group sees the registry in `az acr list` and may pull; AcrPush lets the team's builds push.
    principal=$team-builds
    client_id=$("$az" ad sp list --display-name "$principal" --query '[0].appId' --output tsv)
    if [ -z "$client_id" ]; then
        read -r client_id password < <("$az" ad sp create-for-rbac --name "$principal" \
            --query '[appId, password]' --output tsv --only-show-errors | paste --serial)
        echo "docker login --username $client_id --password $password $login_server"
    fi
    "$az" role assignment create --assignee "$client_id" --role AcrPush --scope "$registry_id" --output none
    "$az" role assignment create --assignee "$client_id" --role Reader --scope "${registry_id%%/providers/*}" --output none
done
