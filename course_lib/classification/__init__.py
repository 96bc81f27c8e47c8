"""Sequence classification: one label for a whole text, said at its first piece."""
