"""Attention and dropout, exact and faster on the CPU; everywhere else PyTorch's own."""
