"""The demonstration: a sweep with a page, in a small version (demo.yaml) and a full one."""
