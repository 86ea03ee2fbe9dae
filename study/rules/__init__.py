"""The rules of docs/hypotheses.md as code."""
