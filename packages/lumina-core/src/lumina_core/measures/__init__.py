"""Mathematics of judging: distances between sets, nearest neighbours, how sure a figure is. Knows only tensors."""
