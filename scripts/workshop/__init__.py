"""What the product is tried with: labs, faults, benchmarks, models with random weights. In no image, no release."""
