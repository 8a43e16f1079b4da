#!/usr/bin/env bash
# Installs what images.py runs beside fastcas: the programs of tests/neighbours, and Debian's pigz, zstd and hyperfine,
# which takes root where one is missing. What is there stays.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/neighbours/install.sh
missing=()
for program in pigz zstd hyperfine; do
    command -v "$program" >/dev/null || missing+=("$program")
done
((${#missing[@]})) || exit 0
if ((EUID)); then
    echo "missing Debian packages, which root can install: ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
