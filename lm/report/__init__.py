"""What people see of a run: tables, pictures, one page."""
