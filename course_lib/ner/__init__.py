"""Named-entity recognition: train, evaluate, predict."""
