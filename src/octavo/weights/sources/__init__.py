"""Where models are fetched from, one file per kind of place; the Hub and pip fetch by themselves."""
