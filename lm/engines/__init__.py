"""f-DPG inside other people's training engines: `lm.engines.trl` for TRL.

Nothing here is imported by the rest of `lm`, and an engine only by the module that is named after
it: `pip install .[lm]` brings none.
"""
