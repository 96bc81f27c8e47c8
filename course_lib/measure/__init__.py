"""One scorecard for every model: F1, bytes, multiply-adds, latency, memory."""
