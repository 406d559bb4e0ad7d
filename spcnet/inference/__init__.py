"""Using a trained network: predictions for images, and pictures of them."""
