"""Texts, their vocabularies, and streams of them."""
