"""Claims about estimators, targets, penalties and values."""
