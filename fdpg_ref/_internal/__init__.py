"""What the modules of the core share; not part of its interface."""
