"""Whether two models differ: on the same examples, in pairs, with a p-value."""
