"""The smallest modality, a plugin like any other, for tests of the core alone: a word in, a row of numbers out."""
