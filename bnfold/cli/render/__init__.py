"""What commands print: results as tables and sentences on a terminal."""
