"""Templates of plugins: ``python -m harness.new method NAME``."""
