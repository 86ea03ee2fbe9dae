"""The museum: reported mistakes, re-implemented from their descriptions, beside their corrections.

``python -m toy museum`` runs an oracle on every exhibit and on its twin; `toy.museum.exhibits`
lists them. Nothing is claimed about the present state of any project that is named.
"""
