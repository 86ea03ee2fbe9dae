"""The exact study: thousands of random problems, every objective on each, no estimate in sight.

Reading order: `random` (batches of policies, and how problems are drawn), `descents` (objectives,
gradients and their signal-to-noise ratio, Adam, exact minima), `rates` (the pilot that chooses
learning rates), `tasks`, `run`, `table` and `report`. The command is ``python -m toy study``.
"""
