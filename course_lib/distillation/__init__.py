"""Distillation: losses that let a student learn from its teacher."""
