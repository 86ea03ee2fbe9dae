"""The verification on paper: table, measures, figures, page."""
