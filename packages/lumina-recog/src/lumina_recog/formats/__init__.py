"""Checkpoint formats: folders of timm."""
