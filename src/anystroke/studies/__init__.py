"""Programs made of the rooms below them; nothing but the command imports them."""
