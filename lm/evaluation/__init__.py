"""Measure a policy against its target."""
