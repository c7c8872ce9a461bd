"""The nouns of Nightshift: what the stages are made of. Nothing here imports from `stages`."""
