"""Networks: backbones, style layers, DeepLabV3+, prototype head, and the one forward that joins them."""
