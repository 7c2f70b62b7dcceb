"""Clips on an event: when one begins and ends, its files, and their index."""
