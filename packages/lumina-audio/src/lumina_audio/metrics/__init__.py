"""How good sounds are: features to compare them by, and what is told of the comparison."""
