"""The program: command line, configuration, opening what it names, following the configuration file."""
