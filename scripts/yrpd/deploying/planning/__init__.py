"""From the inventory to the containers: pure, but for reading the model's folder."""
