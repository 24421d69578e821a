"""What a model would take of a machine, and how fast it would be there, from headers alone."""
