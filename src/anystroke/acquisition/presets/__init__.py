"""Which protocols are drawn, and how often."""
