"""The motion world: procedural clips whose truth is known, and questions about them."""
