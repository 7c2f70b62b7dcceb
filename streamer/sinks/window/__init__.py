"""A window on the screen."""
