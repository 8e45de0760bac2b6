"""Images: how they are found, decoded and held."""
