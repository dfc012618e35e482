"""What may be added to the plain trust-region step, one paper a file; all of it is off by default."""
