"""The exact study: thousands of random problems, every objective on each, no estimate in sight.

Reading order: `families` (batches of policies), `problems` (how they are drawn), `objectives`,
`gradients` (exact, sampled, and their signal-to-noise ratio), `descent`, `minimise`, `optimum`,
`rates` (the pilot that chooses learning rates), `tasks`, `run`, `table` and `report`.
"""
