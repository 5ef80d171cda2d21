"""What runs several stages: the commands that compose them."""
