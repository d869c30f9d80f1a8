"""The endpoint: a request with an image and a mask in, the composite out.

A request passes from top to bottom, and its response back:

    http/middleware.py       API keys, admission, body size, deadline, one shape for all errors
    http/page.html           the page for a browser: a brush, and the inpainted image
    http/app.py              the routes; batch_requests.py many pairs, compat_api.py other APIs
    http/schemas.py          what callers send; responses.py what they receive; openapi.py and
                             docs_page.py describe both
    http/inpaint_service.py  two files to one: decode, tile, inpaint, composite, encode
    replica/ingress.py       the application on Ray Serve, and its calls to the replicas
    replica/batcher.py       tiles of one size share a forward pass
    replica/replica.py       the models of one replica, replaced without a pause; model_cache.py
                             keeps them in an LRU cache
    replica/deployment.py    start, refresh and stop all of it on Ray Serve

``errors`` and ``limits`` belong to both sides. ``client`` is the Python client of the endpoint.
"""
