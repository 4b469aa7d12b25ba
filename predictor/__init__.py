"""realfake: tell real photographs from fake ones, as a KServe predictor."""
