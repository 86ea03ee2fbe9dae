"""What verl loads by itself, by the entry point `verl.plugins`: importing it registers f-DPG."""

from __future__ import annotations

import importlib.util

from lm.engines.verl import register

if importlib.util.find_spec("verl") is not None:
    register()
