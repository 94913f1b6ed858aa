"""How good are images: distances between sets of features, and judges."""
