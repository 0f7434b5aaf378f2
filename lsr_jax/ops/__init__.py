"""Pure functions of arrays that losses and methods share."""
