"""What no linear map explains of each token of one example of a kept store, as a picture."""
