"""The command line, one file per verb. Each has ``add_parser(subparsers)`` and ``run(args) -> exit status``."""
