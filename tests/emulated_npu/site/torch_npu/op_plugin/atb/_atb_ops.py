"""Registration of the ATB operators, which are there from the start."""


def _register_atb_extensions() -> None:
    """Do nothing."""
