"""HTTP requests to one or more base URLs: connections, streams, adaptive concurrency, replicas."""
