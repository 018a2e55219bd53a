#!/bin/sh
# What the tests need beside .venv: the older generation of the Python SDK and the Azure CLI in environments of their own,
# the SDKs for Node, and the servers of PostgreSQL and Redis, of which tests start private ones. `make test` calls it; it
# does nothing when everything is in place.
set -eu
cd "$(dirname "$0")/../.."

UV_PROJECT_ENVIRONMENT=.venv-openai2 UV_PYTHON_DOWNLOADS=never \
    .venv/bin/uv sync --frozen --quiet --python .venv/bin/python --only-group openai2
UV_PROJECT_ENVIRONMENT=.venv-az UV_PYTHON_DOWNLOADS=never \
    .venv/bin/uv sync --frozen --quiet --python .venv/bin/python --only-group azcli

have() { command -v "$1" >/dev/null 2>&1; }

have_postgresql() { have initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }

missing=""
have node && have npm || missing="$missing nodejs npm"
have_postgresql || missing="$missing postgresql"
have redis-server || have valkey-server || missing="$missing redis-server"

# Debian would make a cluster and start services; tests need the programs only. What was set up before stays as it is,
# and what is set up here for the installation goes with it.
install() {
    made=""
    trap '[ -z "$made" ] || rm -f $made' EXIT
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        made="/usr/sbin/policy-rc.d"
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        made="$made /etc/postgresql-common/createcluster.conf"
        mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o Dpkg::Options::=--force-confold \
        "$@" >/dev/null
}

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
        echo "the tests need these programs, by Debian's names:$missing; install them, then run this again" >&2
        exit 1
    fi
    echo "installing Debian's$missing" >&2
    # shellcheck disable=SC2086 - several names
    install $missing
fi
node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || {
    echo "the tests need node 18 or later; this is $(node --version)" >&2
    exit 1
}

cd tests/clients/node
cmp -s package-lock.json node_modules/.installed || {
    npm ci --loglevel=error --no-progress
    cp package-lock.json node_modules/.installed
}
