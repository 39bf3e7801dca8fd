"""Rules that a method or backbone must keep, and a short training: ``python -m harness.check my_mix.py``."""
