"""Tracking: the boxes of one object in frame after frame get one id."""
