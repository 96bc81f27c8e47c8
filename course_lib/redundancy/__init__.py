"""The same thing stored twice or for nothing: vocabularies, and what else is redundant."""
