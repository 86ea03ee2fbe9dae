#!/usr/bin/env bash
# Install an environment and say all the while what is happening:
#   tools/install.sh VENV EXTRAS "HOW MUCH" [PYTHON]
# Shared by the targets of the Makefile: what is there already is not installed again.
set -euo pipefail
venv=$1 extras=$2 much=$3 python=${4:-python3}
log=$venv/install.log

# On a terminal one line is enough, which is written over.
[ -t 1 ] && over=$'\r\033[K' end='' || { over='' end=$'\n'; }
say() { printf '%s%4d s  %s%s' "$over" "$SECONDS" "$*" "$end"; }
megabytes() { du -sm "$venv" 2>/dev/null | cut -f1; }
packages() { find "$venv" -maxdepth 5 -name '*.dist-info' 2>/dev/null | wc -l; }

# What pip is at: the last of its lines that says so.
doing() { grep -Eo '^ *(Collecting|Downloading|Installing|Building) [^ ]*' "$log" | tail -n 1 || true; }

# Run a command with its output in the log; a line every two seconds tells how far it is.
watch() {
    local what=$1 pid
    shift
    "$@" >>"$log" 2>&1 &
    pid=$!
    while sleep 1.5 && kill -0 "$pid" 2>/dev/null; do
        say "$what: $(packages) packages, $(megabytes) MB $(doing)"
    done
    wait "$pid" || { echo; tail -n 20 "$log"; echo "failed; the whole log is $log"; exit 1; }
}

echo "Installing what is needed ($extras) into $venv: $much."
mkdir -p "$venv"
: >"$log"
[ -x "$venv/bin/pip" ] || watch "making $venv" "$python" -m venv "$venv"
watch "installing" "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
    -c constraints.txt -e ".[$extras]"
end=$'\n' say "installed: $(megabytes) MB in $SECONDS s"
