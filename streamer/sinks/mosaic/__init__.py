"""Several sources in one window or one video."""
