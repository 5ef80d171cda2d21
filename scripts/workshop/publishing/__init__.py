"""A release of this project itself: its sdist, its wheel and its tag. Releases of images are in ``releasing``."""
