"""What the connector costs, as ratios that a noisy machine cannot bend."""
