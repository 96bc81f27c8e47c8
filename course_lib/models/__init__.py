"""Where encoders come from, what is in them, and how models are saved."""
