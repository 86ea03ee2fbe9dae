"""What the stored tables say: learning rates, power, verdicts on the hypotheses, and a report.

Reads the Parquet files under study/results and nothing else: neither ``toy`` nor ``lm`` is
imported, so a report can be written anew, and judged anew, without running anything. Reading order:
`names`, `tables` (what is stored, and arrays of one quantity), `rules` (the rules of
docs/hypotheses.md, and which table each looks at) and `report` (sections and figures).
"""
