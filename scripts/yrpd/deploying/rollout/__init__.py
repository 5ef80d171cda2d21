"""Bringing the hosts from what runs to what is planned."""
