"""What people see of a run: tables, pictures, one page."""

# Proves a page of several runs to be one of ours, which another one may replace.
SEVERAL = "<!-- fdpg-ref: several runs on one page -->"
ADVICE = "Its records are incomplete or were changed; --debug true shows which"
