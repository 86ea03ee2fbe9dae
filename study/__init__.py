"""The stored tables judged: learning rates, power, verdicts on the hypotheses, and a report.

Reads the Parquet files under study/results and nothing else. It imports neither ``toy`` nor ``lm``,
so a report can be written and judged anew without running anything. From Python,
`study.report.document.collect` returns the numbers behind the report as DataFrames.

Reading order: `text` (numbers as printed), `names`, `statistics`, `tables` (what is stored, and
arrays of one quantity), `rules` (the rules of docs/hypotheses.md, and which table each looks at),
`report` (tables of numbers, figures and sections), ``__main__``. A module imports only from those
before it.
"""
