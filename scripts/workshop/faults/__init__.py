"""Faults under load: what happens to requests when a part of a deployment fails, on the lab."""
