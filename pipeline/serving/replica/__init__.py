"""The model side of the service: the Ray Serve deployment, its replicas, batching and models."""
