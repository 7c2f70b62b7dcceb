"""The live page of a run, and its HTTP interface. Needs the extra ``[web]``."""
