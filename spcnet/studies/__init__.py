"""What is measured of trained networks: scores, robustness, styles and embeddings, out-of-distribution scores."""
