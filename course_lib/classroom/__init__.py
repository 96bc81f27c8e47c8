"""Lessons from one source: build them, hand them out, keep them in step with what they are made of."""
