"""The figures of the report, one function of data each."""
