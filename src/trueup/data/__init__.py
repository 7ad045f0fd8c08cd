"""Text on its way to tokens: reading rows, rendering them, checking and ordering them."""
