"""A live run behind HTTP: pages of metrics, service discovery, control."""
