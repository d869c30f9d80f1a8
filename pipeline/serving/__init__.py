"""Image and mask in, composite out: the endpoint and the replicas behind it.

    errors.py     what the service answers when it refuses, and in which shape
    limits.py     who is let in: bodies, pixels, time, and how many at once
    images.py     bytes to pixels and back, strictly and within bounds
    canvas.py     how an image of any size meets the network
    batching.py   requests of one shape share one pass through the network
    model.py      the models of one replica, swapped without a pause
    app.py        the HTTP interface, over any backend that can fill a canvas
    service.py    all of it on Ray Serve: start, refresh, stop

Only ``service.py`` knows Ray, so the rest runs in a test within milliseconds.
"""
