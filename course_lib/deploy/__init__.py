"""Shipping a model: export, engines, fair timing."""
