"""Facts in, pages and figures out."""
