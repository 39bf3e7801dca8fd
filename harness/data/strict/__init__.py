"""Strict reading of files that others made: kinds of files, arrays, and the memory they may take."""
