"""Models as folders and as modules: load, save, tokenise, adapt."""
