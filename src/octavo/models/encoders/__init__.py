"""Text encoders: models whose tokens see each other in both directions, and which end in hidden states."""
