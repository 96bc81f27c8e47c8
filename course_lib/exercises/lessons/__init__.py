"""The exercises and questions of each lesson, a module each."""
