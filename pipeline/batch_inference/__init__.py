"""Inpaint folders and shard sets.

``config`` is the configuration, and ``pairs`` finds the mask of each image. ``endpoint`` sends a
folder to an endpoint; ``ray_data`` inpaints it on Ray Data, and ``shards`` does the same for a
shard set.
"""
