"""Compression recipes as data, and running them."""
