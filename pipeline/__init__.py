"""The stages from a folder of images to an inpainting endpoint, one package or module each."""
