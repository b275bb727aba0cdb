"""Pictures of tokens, from kept token stores: projections of the states, and what no linear map explains of each token.

It stands above capture, measure, adapters and tasks; pictures of results are drawn in
:mod:`microscope_bench.publish.plots`, which sees no tensor.
"""
