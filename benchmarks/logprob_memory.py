"""Peak memory of token log-probabilities and their gradient: naive against chunks.

Naive is the obvious training step: float32 logits of all positions,
log_softmax, gather, backward. Each path runs in a process of its own, on the same numbers from the
same seed; what is reported is its peak resident memory minus that before the first logit, so that
hidden states, head and libraries do not count. At the default size naive takes 14 GiB. Writes
logprob_memory.json and .md to benchmarks/results. Run ``python -m benchmarks.logprob_memory``; it
takes two minutes, and ``--tokens 1024`` a quarter of one, in 2.5 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._results import RESULTS, machine, write_results

PATHS = ("naive", "chunked")
# What must hold: share of the naive memory, nats, and relative norm of the gradients.
MEMORY_SHARE, VALUE_ERROR, GRADIENT_ERROR = 0.25, 1e-5, 1e-4


def compare(*, tokens: int, vocabulary: int, width: int, chunk: int) -> dict[str, Any]:
    """Run both paths in fresh processes, one after the other, and compare what they return.

    Parameters
    ----------
    tokens, vocabulary, width
        Sizes of hidden states (tokens, width) and head (vocabulary, width).
    chunk
        Positions that pass the head at a time.

    Returns
    -------
    dict
        Sizes; GiB and seconds of each path; the share of memory; the largest error of the values
        in nats and the relative error of the gradients' norm.
    """
    sizes = {"tokens": tokens, "vocabulary": vocabulary, "width": width, "chunk": chunk}
    with tempfile.TemporaryDirectory() as folder:
        measured = {path: _run(path, sizes, Path(folder)) for path in PATHS}
        errors = _errors(Path(folder))
    return {
        **sizes,
        **measured,
        "memory_share": measured["chunked"]["gib"] / measured["naive"]["gib"],
        **errors,
    }


def measure(path: str, sizes: dict[str, int], file: Path) -> dict[str, float]:
    """Measure one path in this process, which must be a fresh one, and store its results."""
    import torch  # noqa: PLC0415 - only the processes that measure need it
    from safetensors.torch import save_file  # noqa: PLC0415

    from lm.policy.causal.chunked import chunked_log_probs  # noqa: PLC0415

    def log_probs(count: int) -> torch.Tensor:
        part, chosen = hidden[:count], targets[:count]
        if path == "chunked":
            return chunked_log_probs(part, head, chosen, chunk=sizes["chunk"])
        wide = torch.log_softmax(head(part).float(), dim=-1)
        return wide.gather(-1, chosen[:, None]).squeeze(-1)

    torch.manual_seed(0)
    hidden = torch.randn(sizes["tokens"], sizes["width"], requires_grad=True)
    head = torch.nn.Linear(sizes["width"], sizes["vocabulary"], bias=False)
    targets = torch.randint(sizes["vocabulary"], (sizes["tokens"],))
    weights = torch.randn(sizes["tokens"])
    log_probs(2).sum().backward()  # what libraries allocate once
    hidden.grad = head.weight.grad = None
    before, start = _peak_gib(), time.perf_counter()
    values = log_probs(sizes["tokens"])
    (values * weights).sum().backward()
    seconds, after = time.perf_counter() - start, _peak_gib()
    assert hidden.grad is not None
    assert head.weight.grad is not None
    found = {"values": values.detach(), "hidden": hidden.grad, "head": head.weight.grad}
    save_file(found, file)
    return {"gib": after - before, "seconds": seconds}


def _run(path: str, sizes: dict[str, int], folder: Path) -> dict[str, float]:
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    command = [sys.executable, "-m", "benchmarks.logprob_memory", "--path", path]
    done = subprocess.run(
        [*command, "--tensors", str(folder / path), *words],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the {path} path ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _errors(folder: Path) -> dict[str, float]:
    from safetensors.torch import load_file  # noqa: PLC0415

    naive, chunked = (load_file(folder / path) for path in PATHS)
    values = float((naive["values"] - chunked["values"]).abs().max())
    gradients = max(
        float((naive[name] - chunked[name]).norm() / naive[name].norm())
        for name in ("hidden", "head")
    )
    return {"value_error": values, "gradient_error": gradients}


def _peak_gib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss starts at what the parent had in memory when it forked; this does not.
        line = next(x for x in status.read_text(encoding="utf-8").splitlines() if "VmHWM" in x)
        return int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, but bytes on a Mac.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _holds(result: dict[str, Any]) -> bool:
    return (
        result["memory_share"] <= MEMORY_SHARE
        and result["value_error"] <= VALUE_ERROR
        and result["gradient_error"] <= GRADIENT_ERROR
    )


def _markdown(result: dict[str, Any], machine: str, command: str) -> str:
    sizes = ", ".join(f"{name} {result[name]:,}" for name in ("tokens", "vocabulary", "width"))
    rows = [
        f"| {path} | {result[path]['gib']:.2f} | {result[path]['seconds']:.1f} |" for path in PATHS
    ]
    errors = (
        f"The chunked path (chunk {result['chunk']}) takes {result['memory_share']:.1%} of the "
        f"naive memory (bound {MEMORY_SHARE:.0%}). Largest difference of a log-probability "
        f"{result['value_error']:.1e} nats (bound {VALUE_ERROR:g}); relative difference of the "
        f"gradients {result['gradient_error']:.1e} (bound {GRADIENT_ERROR:g})."
    )
    head = f"Log-probabilities and their gradient, float32: {sizes}. {machine}. `{command}`."
    table = ["| path | peak extra memory, GiB | seconds |", "|---|---|---|", *rows]
    return "\n".join([head, "", *table, "", errors, ""])


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison and write the two files; 1 if a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.logprob_memory")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the two files")
    parser.add_argument("--path", choices=PATHS, help="measure one path in this process only")
    parser.add_argument("--tensors", type=Path, help="with --path: where its results go")
    options = parser.parse_args(arguments)
    names = ("tokens", "vocabulary", "width", "chunk")
    sizes = {name: getattr(options, name) for name in names}

    # One path, in the process that `_run` has started.
    if options.path is not None:
        if options.tensors is None:
            parser.error("--path needs --tensors")
        print(json.dumps(measure(options.path, sizes, options.tensors)))
        return 0

    # Both paths: compare, print and write.
    result = compare(**sizes)
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    where = f"{machine('torch')}, {threads} threads"
    words = [f"--{name} {size}" for name, size in sizes.items() if size != parser.get_default(name)]
    command = " ".join(["python -m benchmarks.logprob_memory", *words])
    text = _markdown(result, where, command)
    print(text)

    record = {"machine": where, "command": command, **result}
    write_results(options.output, "logprob_memory", record, text)
    return int(not _holds(result))


if __name__ == "__main__":
    sys.exit(main())
