"""Weights as files: read when they are asked for, written one by one, and the one place where a pickle is opened."""
