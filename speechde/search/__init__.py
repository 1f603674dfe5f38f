"""Searching and mining over vectors that a model made; nothing here needs the model."""
