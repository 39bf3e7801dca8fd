"""The protocol of the benchmark, written once; it knows no method and no backbone by name."""
