"""Image files as arrays: decoding, encoding, orientation, colour profiles and limits."""
