"""Studies: which runs a comparison needs, and what they say together."""
