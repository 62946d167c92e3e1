"""The page of `/metrics`: what dcgm-exporter says of the GPUs, and what we say of the job."""
