"""What is asked of a host's engine and done on it: connections, containers, images, records."""
