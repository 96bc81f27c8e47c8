"""Plots and the pages that hold them."""
