"""What a user takes away from a run: rows of numbers, tables and figures."""
