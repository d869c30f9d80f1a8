"""The HTTP side of the service: routes, middleware, API keys, schemas and responses."""
