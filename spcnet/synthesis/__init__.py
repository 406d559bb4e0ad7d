"""Images made or changed by arithmetic: generated streets, weather, corruptions. NumPy and Pillow only."""
