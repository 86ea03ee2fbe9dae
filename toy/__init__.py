"""f-DPG on problems small enough to enumerate: every expectation is a sum over all outcomes.

``python -m toy verify`` checks each claim about the estimators exactly; ``python -m toy train``
descends a divergence and plots the path; ``audit`` says what a loss minimises, ``museum`` shows
real mistakes beside their corrections, ``measurement`` what samples tell of a policy that dropped a
part of its target, and ``study`` compares all objectives on many problems. The estimators are those
of ``fdpg_ref``, the same that ``lm`` runs on a transformer.

Reading order: `categorical` and `exact` (sampling, and sums over all outcomes and batches),
`families` and `sequences` (policies), `oracle` (the definition, which judges), `problems`,
`checks`, `files` and `printing`; `estimators` (every way to estimate a gradient), `measurement`
(ways to estimate a value, and what they miss), `config` and `train` (a descent on one page); then
the tools: `verify` (the claims), `audit`, `museum`, `sweep`, `lesson` (what notebooks draw and
grade with) and `cli`. A module imports only from those before it; `audit` and `sweep` know nothing
of `verify`.
"""
