"""Images: listing, decoding and caching."""
