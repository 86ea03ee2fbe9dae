#!/usr/bin/env bash
# Get Chromium, which the tests of the explorer and the site need, where Debian's packages are to be
# had: `make browser`. Says in its last line whether these tests run, or why they are left out. That
# is no failure: nothing else needs a browser. Once it is there, this takes no time.
set -uo pipefail
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT

found() { command -v chromium || command -v chromium-browser; }
left_out() {
    echo "browser tests: left out, since $*"
    exit 0
}

# A registry that does not answer must not hold up everything else. Unpacking is not cut short: a
# package that is half installed stays so.
if ! found >"$log"; then
    command -v apt-get >"$log" || left_out "Chromium is missing, and so is apt-get to install it"
    [ "$(id -u)" = 0 ] || left_out "Chromium is missing; as root: apt-get install chromium"
    echo "installing Chromium: 110 MB to load, 300 MB on disk"
    wanted=(install -y -qq --no-install-recommends chromium fonts-dejavu-core)
    timeout 40 apt-get update -qq >"$log" 2>&1
    timeout 90 apt-get "${wanted[@]}" --download-only >"$log" 2>&1 && apt-get "${wanted[@]}" >"$log" 2>&1
    code=$?
    [ "$code" != 124 ] || left_out "apt-get did not load Chromium within 90 s"
    [ "$code" = 0 ] || left_out "apt-get install chromium failed: $(tail -n 1 "$log")"
    found >"$log" || left_out "what apt-get installed has no program named chromium"
fi
echo "browser tests: they run, with $("$(found)" --version 2>"$log" | tail -n 1)"
