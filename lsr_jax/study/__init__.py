"""Studies: methods times seeds, and their comparison."""
