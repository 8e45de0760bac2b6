"""Facts about the machine that this runs on. The standard library alone: it runs on the devices too."""
