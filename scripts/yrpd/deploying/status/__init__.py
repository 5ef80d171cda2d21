"""What runs: state, figures, logs."""
