"""From a method and a stream of batches to trained parameters."""
