"""One function per verb: what the command line, notebooks and services call."""
