"""The statistics of a comparison: pure functions of arrays and of the tidy frame."""
