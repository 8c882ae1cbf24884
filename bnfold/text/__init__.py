"""Numbers and names in words, JSON, SVG, and escaping for HTML, terminals and CI commands."""
