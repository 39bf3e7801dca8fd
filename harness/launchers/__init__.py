"""Launchers, which train cells in this process, in worker processes, or on a Ray cluster."""
