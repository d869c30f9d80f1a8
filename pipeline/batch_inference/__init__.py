"""Inpaint folders and shard sets.

``config`` says what to inpaint and where the results go, and ``pairs`` finds the mask of each
image. ``endpoint`` sends a folder to an endpoint; ``ray_data`` inpaints it on Ray Data, and
``shards`` does the same for a shard set.
"""
