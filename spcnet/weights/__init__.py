"""Files of weights of other code: read, recognised, converted."""
