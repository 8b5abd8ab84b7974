"""Pairs of images with their flow: generated scenes, and the published data sets."""
