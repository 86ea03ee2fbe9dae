"""f-DPG on problems small enough to enumerate: every expectation is a sum over all outcomes.

``python -m toy verify`` checks each claim about the estimators exactly; ``python -m toy train``
descends a divergence and plots the path. The estimators are those of ``fdpg_ref``, the same that
``lm`` runs on a transformer.
"""
