"""Showing results: tables, figures, one self-contained HTML page. No torch."""
