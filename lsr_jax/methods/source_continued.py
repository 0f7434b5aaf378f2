"""Source cross-entropy for as many more steps as a method gets: what longer training adds."""

from lsr_jax.methods.source_only import make

__all__ = ["make"]
