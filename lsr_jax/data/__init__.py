"""Label spaces, data sets and the pipeline that brings them to the device."""
