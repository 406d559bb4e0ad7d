"""What is measured of trained networks: metrics, robustness, styles and embeddings, OOD scores."""
