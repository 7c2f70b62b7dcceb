"""Video files: encoding, sound, segments."""
