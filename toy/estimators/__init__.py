"""Gradient estimators as choices: their estimates, and their exact moments over all batches."""
