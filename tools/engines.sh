#!/usr/bin/env bash
# Install a training engine on top of an environment that has everything else:
#   tools/engines.sh BASE VENV REQUIREMENT...
# VENV sees what BASE has and gets what is missing: some 20 MB instead of 2 GB.
set -euo pipefail
base=$1 venv=$2
shift 2

site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
[ -x "$venv/bin/python" ] || "$base/bin/python" -m venv --without-pip "$venv"
site "$base/bin/python" >"$(site "$venv/bin/python")/base.pth"

# The tested versions of everything but what is asked for.
names=$(printf '%s\n' "$@" | sed 's/[^A-Za-z0-9_-].*//' | paste -sd '|')
grep -Ev "^($names)==" constraints.txt >"$venv/constraints.txt"
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet -c "$venv/constraints.txt" "$@"
echo "$venv has $* on top of $base"
