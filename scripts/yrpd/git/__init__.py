"""Git: a repository, and patches as mail. Knows nothing of this project."""
