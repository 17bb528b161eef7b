"""Built-in instruments: data, captions, data set and evaluation set."""
