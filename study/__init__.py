"""What the stored tables say: learning rates, power, verdicts on the hypotheses, and a report.

Reads the Parquet files under results/ and nothing else: neither ``toy`` nor ``lm`` is imported, so
a report can be written anew, and judged anew, without running anything. Reading order: `names`,
`tables` (what is stored), `cubes` (arrays of one quantity), `statistics`, `hypotheses` (the rules
of docs/hypotheses.md), `judge` (which table a rule looks at), `summaries`, the `figures_*`, and
`report`.
"""
