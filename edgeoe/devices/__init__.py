"""What runs on a device that has no edgeoe of its own."""
