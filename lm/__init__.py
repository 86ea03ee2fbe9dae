"""f-DPG on transformer policies: the estimators of ``fdpg_ref``, contracted by autograd.

``python -m lm train RECIPE`` aligns a causal language model with a target, and
``python -m lm demo`` runs the demonstration on names. `lm.train` is the loop to read first.
"""
