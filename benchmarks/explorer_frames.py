"""Time a drag in the explorer, in Chromium: ``python -m benchmarks.explorer_frames``.

On its dearest picture: contours, arrows, and a cloud of 1024 samples for each gradient, drawn
without a graphics card. A drag follows the hand at 20 pictures a second, so at 50 ms each. The
browser shows 60 frames a second: two of them, for which a picture waits here, are 33 ms at least.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOAL_MS = 50
DRAG = """(async () => {
  const n = document.getElementById("t-n");
  n.value = 10;
  n.dispatchEvent(new Event("input"));
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  const times = [];
  for (let i = 0; i < 24; i++) {
    const start = performance.now();
    TriangleTab.state.target = Numbers.logSoftmax([0.1 * i, 0.5, 1]);
    TriangleTab.refresh();
    await frame();
    await frame();
    times.push(performance.now() - start);
  }
  return times;
})()"""


def main(arguments: list[str] | None = None) -> int:
    """Print how long a picture takes; 1 if most take longer than the goal, 2 without Chromium."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.explorer_frames", description=__doc__
    )
    parser.parse_args(arguments)
    # The browser's driver is the tests'.
    sys.path.insert(0, str(ROOT / "tests"))
    chromium = importlib.import_module("support.chromium")
    if chromium.find() is None:
        print(f"this benchmark {chromium.MISSING}", file=sys.stderr)
        return 2
    page = (ROOT / "docs" / "explorer" / "index.html").as_uri()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium.offline_page(Path(profile), page) as opened,
    ):
        times = opened.run(DRAG)

    median = statistics.median(times)
    print(
        f"a picture of a drag: median {median:.0f} ms, longest {max(times):.0f} ms of {len(times)}"
    )
    print(f"goal: {GOAL_MS} ms, which is {1000 // GOAL_MS} a second")
    return int(median > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
