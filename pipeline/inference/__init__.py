"""Inpainting of images of any size: tiles of a size that a network accepts, split and merged."""
