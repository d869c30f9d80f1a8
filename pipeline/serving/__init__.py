"""Image and mask in, composite out: the endpoint and the replicas behind it.

A request passes from top to bottom, and its answer back:

    gate.py       keys, admission, body size, deadline; every answer has one shape
    page.html     what a browser shows: a brush, and what the network fills in
    app.py        the routes; batch.py those with many pairs, foreign.py those of other programs
    asking.py     what callers send; answers.py what they get; documents.py what OpenAPI says
                  of it, and reference.py shows
    work.py       from two files to one: decode, plan, fill, composite, encode
    images.py     bytes to pixels and back, strictly and within bounds
    plan.py       which part of an image lies on which canvas; canvas.py lays it there and lifts it
    batching.py   canvases of one size share one pass through the network
    model.py      the models of one replica, swapped without a pause; shelf.py holds them
    service.py    all of it on Ray Serve: start, refresh, stop

errors.py, limits.py, keys.py, metrics.py and logs.py are what their names say. On the other side
of the wire, client.py asks the endpoint; pairs.py, folder.py and endpoint.py fill a folder through
it, and offline.py does the same without it, on Ray Data.

Only ``service.py`` and ``offline.py`` know Ray, so the rest runs in a test within milliseconds.
"""
