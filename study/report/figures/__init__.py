"""The pictures of the report: one module for each kind of table, and what they share."""
