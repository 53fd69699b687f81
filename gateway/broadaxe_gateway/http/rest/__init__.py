"""The REST API, one resource a file. Each has a `router`; `app.create_app` mounts them."""
