"""On the deploy host: from an inventory and an image to a running, proved service."""
