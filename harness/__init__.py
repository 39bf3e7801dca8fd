"""The protocol of the benchmark, which is the same for all methods and backbones."""
