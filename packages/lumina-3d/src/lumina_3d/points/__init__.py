"""Point clouds: files, tokens, backbone, coupling, task, data sets and metrics."""
