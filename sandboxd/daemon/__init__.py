"""sandboxd: gRPC API, names, images, networks, the lifecycle of sandboxes. A client of the shims, never their owner."""
