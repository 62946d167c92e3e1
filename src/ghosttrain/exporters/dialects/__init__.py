"""Dialects: the logs of training programs, line by line as those programs write them."""
