"""What is served: a model directory, read, checked, and turned into a network."""
