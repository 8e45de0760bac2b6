"""Code that runs on a device without an installation of edgeoe."""
