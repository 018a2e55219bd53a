#!/bin/sh
# The life of an account with the stock Azure CLI, against a running `entrepot serve --data DATA_DIR`:
#
#     sh tests/clients/az.sh DATA_DIR [LOCATION [MODEL VERSION]]
#
# Whatever the CLI prints is what the `openai` SDK then calls with. Needs an upstream that serves the model. AZ, ENTREPOT
# and PYTHON name the programs; the CLI's settings go into a folder of their own that is removed at the end. Ends with 1 at
# the first thing that is not as it should be.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
data=${1:?"usage: sh az.sh DATA_DIR [LOCATION [MODEL VERSION]]"}
location=${2:-japaneast} model=${3:-gpt-4o} version=${4:-2024-11-20}
entrepot=${ENTREPOT:-$root/.venv/bin/entrepot} python=${PYTHON:-$root/.venv/bin/python}
PATH=$(dirname "${AZ:-$root/.venv-az/bin/az}"):$PATH
group=rg-az-$$ account=az-$$

AZURE_CONFIG_DIR=$(mktemp -d) AZURE_CORE_COLLECT_TELEMETRY=false AZURE_CORE_NO_COLOR=true
export PATH AZURE_CONFIG_DIR AZURE_CORE_COLLECT_TELEMETRY AZURE_CORE_NO_COLOR
trap 'rm -rf "$AZURE_CONFIG_DIR"' EXIT

step() { echo "$*" >&2; }
fail() { echo "az.sh: $*" >&2; exit 1; }
# same WHAT IS WANTED
same() { [ "$2" = "$3" ] || fail "$1: \`$2\`, and not \`$3\`"; }
cs() { az cognitiveservices "$@" --only-show-errors; }
of_account() { verb=$1; shift; cs account $verb -n "$account" -g "$group" "$@"; }
# called WITH: how many of the SDK's seven ways of calling were served with this as key and as token
called() {
    printf '{"endpoint":"%s","key":"%s","token":"%s","model":"chat"}' "$endpoint" "$1" "$2" |
        "$python" "$here/endpoint_calls.py" |
        "$python" -c 'import json, sys; print(sum(type(r[0]) is str for r in json.load(sys.stdin)["results"].values()))'
}

step "setting up and logging in"
eval "$("$entrepot" az-setup --data "$data")"
same "the cloud" "$(az cloud show --query name -o tsv)" Entrepot
principal=$(az account show --query user.name -o tsv)

step "group and account"
az group create -n "$group" -l "$location" -o none
of_account create --kind OpenAI --sku S0 -l "$location" --custom-domain "$account" --yes -o none
endpoint=$(of_account show --query properties.endpoint -o tsv)
id=$(of_account show --query id -o tsv)
same "accounts of the group" "$(cs account list -g "$group" --query '[].name' -o tsv)" "$account"

step "keys"
old=$(of_account "keys list" --query key1 -o tsv)
of_account "keys regenerate" --key-name Key1 -o none
key=$(of_account "keys list" --query key1 -o tsv)
[ "$old" != "$key" ] || fail "the key is as it was"

step "models, usages, deployments"
cs model list -l "$location" --query '[].model.name' -o tsv | grep -qx "$model" || fail "\`$model\` is not listed"
of_account list-models --query '[].name' -o tsv | grep -qx "$model" || fail "\`$model\` is not listed at the account"
of_account "deployment create" --deployment-name chat --model-format OpenAI --model-name "$model" \
    --model-version "$version" --sku-name GlobalStandard --sku-capacity 10 -o none
same "deployments" "$(of_account "deployment list" --query '[].name' -o tsv)" chat
# `az` scales by creating it again with another capacity.
of_account "deployment create" --deployment-name chat --model-format OpenAI --model-name "$model" \
    --model-version "$version" --sku-name GlobalStandard --sku-capacity 20 -o none
same "the capacity" "$(of_account "deployment show" --deployment-name chat --query sku.capacity -o tsv)" 20
same "the usage" "$(cs usage list -l "$location" --query "[?name.value=='OpenAI.GlobalStandard.$model'].currentValue | [0]" -o tsv)" 20.0

step "calls with what az printed: $endpoint"
az role assignment create --role "Cognitive Services OpenAI User" --assignee "$principal" --scope "$id" -o none
token=$(az account get-access-token --resource https://cognitiveservices.azure.com --query accessToken -o tsv)
same "ways of calling that were served" "$(called "$key" "$token")" 7
same "ways of calling with the old key and no token that were served" "$(called "$old" "none")" 0

step "deletion, recovery, purge"
of_account "deployment delete" --deployment-name chat -o none
same "deployments that are left" "$(of_account "deployment list" --query 'length(@)' -o tsv)" 0
of_account delete -o none
same "deleted accounts" "$(cs account list-deleted --query "[?name=='$account'].name" -o tsv)" "$account"
of_account recover -l "$location" -o none
same "the recovered account's key" "$(of_account "keys list" --query key1 -o tsv)" "$key"
of_account delete -o none
of_account purge -l "$location" -o none
same "deleted accounts after the purge" "$(cs account list-deleted --query "[?name=='$account'].name" -o tsv)" ""
az group delete -n "$group" --yes -o none
same "groups that are left" "$(az group list --query "[?name=='$group'].name" -o tsv)" ""
step "all as it should be"
