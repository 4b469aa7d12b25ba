"""How a picture becomes probabilities. Knows nothing of HTTP or KServe."""
