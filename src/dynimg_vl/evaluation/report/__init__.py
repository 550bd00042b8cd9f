"""Tables and pictures of measured results beside published ones, with what they rest on."""
