"""Multiscale deep equilibrium models (MDEQ): classification and segmentation."""
