"""Corpora: CoNLL files, tag schemes, the generated corpus, words and word pieces, batches."""
