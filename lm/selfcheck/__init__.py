"""Checks of a machine and of a model: figures beside the bounds that they must keep."""
