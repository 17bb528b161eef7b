"""Data sets of audio: folders, tar files, tables, and built-in ones."""
