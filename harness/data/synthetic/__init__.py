"""Synthetic stand-ins for MOSI, MOSEI and CH-SIMS with a known truth."""
