"""Reading and writing weights: lazy tensors, safetensors files, and guarded pickles."""
