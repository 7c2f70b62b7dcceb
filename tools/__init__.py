"""What made packaged files, run by hand: not part of the installed package."""
