"""Autoencoders of audio."""
