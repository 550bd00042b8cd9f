"""Training of the embedded model on the motion world, from nothing."""
