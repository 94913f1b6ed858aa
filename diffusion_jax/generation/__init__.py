"""From trained networks to images."""
