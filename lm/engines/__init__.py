"""f-DPG inside other people's training engines: TRL (`trl`) and verl (`verl`).

Nothing here is imported by the rest of `lm`, and an engine only by the modules that are named after
it: the extra `lm` brings none.
"""
