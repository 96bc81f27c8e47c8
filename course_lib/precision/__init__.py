"""Training in half precision: what the formats can hold, how training survives in them, and what it saves."""
