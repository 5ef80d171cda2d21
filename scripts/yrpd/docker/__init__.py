"""Docker engines: connections, streams, failures. Knows nothing of this project."""
