"""Data: label spaces, data sets, generated scenes, weather, transforms, loading."""
