"""On the build host: wheelhouse, rebuild of the patched tree, images."""
