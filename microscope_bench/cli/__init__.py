"""The command line, one file per verb: ``add_options(parser)`` and ``run(args)``, which gives the exit status."""
