"""The feed server: takes events off the bus and serves them to clients."""
