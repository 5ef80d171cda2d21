"""The Invoke tasks, one module a namespace; ``tasks.py`` gathers them. No logic: options in, one call, document out."""
