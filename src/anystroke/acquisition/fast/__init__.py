"""The same signals sooner: from tables, and in blocks."""
