#!/bin/sh
# What the tests of clients need beside .venv: the older generation of the Python SDK in an environment of its own, and
# the SDK for Node. `make test` calls it; it does nothing when everything is in place.
set -eu
cd "$(dirname "$0")/../.."

UV_PROJECT_ENVIRONMENT=.venv-openai2 UV_PYTHON_DOWNLOADS=never \
    .venv/bin/uv sync --frozen --quiet --python .venv/bin/python --only-group openai2

have() { command -v "$1" >/dev/null 2>&1; }

if ! have node || ! have npm; then
    if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
        echo "the tests need node (18 or later) and npm; install them, then run this again" >&2
        exit 1
    fi
    echo "installing Debian's nodejs and npm" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nodejs npm >/dev/null
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
