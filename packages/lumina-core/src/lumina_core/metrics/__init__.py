"""Metrics of generated examples by their features."""
