"""Pure functions of arrays, shared by losses and methods."""
